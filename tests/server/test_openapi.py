"""The document and the server against each other: whatever schemathesis can think of, with all of its checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aladin.server.settings import Limits
from tests.serving import ADMIN, TOKENS, client_of, config_of, painted_folder, server_of

EXAMPLES = os.environ.get("ALADIN_EXAMPLES", "3")  # of each operation
# 422 is for what is well formed and cannot be answered, such as a condition on a column that is not there.
# 413: a body of texts that are each allowed can still be more than one request may hold.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "413", "422", "503"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "413", "415", "422"]
"""


@pytest.mark.slow
def test_the_document_names_every_operation(tmp_path: Path, model_path: Path) -> None:
    with client_of(config_of(tmp_path, model_path)) as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/search", "/v1/similar/{image}", "/v1/explain", "/v1/score", "/v1/embeddings", "/v1/rerank", "/v1/images",
        "/v1/images/{image}", "/v1/images/{image}/thumbnail", "/v1/images/{image}/preview", "/v1/uploads",
        "/v1/uploads/{upload}", "/v1/status", "/v1/index", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip


@pytest.mark.slow
def test_the_server_does_what_the_document_says(tmp_path: Path, model_path: Path) -> None:
    folder = painted_folder(tmp_path / "photos", model_path)
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    served = config_of(folder, model_path, port=0, tokens=TOKENS, limits=Limits(workers=2, waiting=50))
    with server_of(served) as server:
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run",
            f"{server.address}/openapi.json",
            "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES, "--seed", "1",
            "--header", f"Authorization: Bearer {ADMIN}", "--suppress-health-check", "all", "--no-color",
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, timeout=3000, cwd=tmp_path, check=False)
    if ended.returncode:
        pytest.fail(ended.stdout[-9000:] + ended.stderr[-2000:])
