import dataclasses
from pathlib import Path

import pytest
import torch

from aladin.training import collapse
from aladin.training.collapse import PATIENCE, Collapse
from aladin.training.recipe import LossConfig, OptimizerConfig, Recipe
from tests.tiny_learning import Recorder, tiny_model, trainer, write_tokenizer

HINGE = LossConfig(alignment_form="hinge", margin=0.2)


def noticed(loss: LossConfig, values: list[float], captions: int = 32) -> list[int]:
    """At which steps something was said."""
    collapse = Collapse(Recipe(loss=loss))
    names = ("alignment", "matching")
    return [
        step
        for step, value in enumerate(values)
        if collapse.noticed({f"unweighed loss {name}": value for name in names}, captions)
    ]


def test_a_loss_that_stays_where_all_scores_are_equal_is_said_once() -> None:
    plateau = 2 * 0.2 * 32
    assert noticed(HINGE, [20.0, *[plateau * 1.005] * (3 * PATIENCE)]) == [PATIENCE]
    sentence = Collapse(Recipe(loss=HINGE))
    assert not any(sentence.noticed({"unweighed loss alignment": plateau}, 32) for _ in range(PATIENCE - 1))
    assert sentence.noticed({"unweighed loss alignment": plateau}, 32).startswith(
        "the alignment loss has been 12.8 for 100 steps"
    )


def test_a_loss_that_passes_by_is_not_said() -> None:
    plateau = 2 * 0.2 * 32
    assert noticed(HINGE, [plateau] * (PATIENCE - 1) + [plateau * 0.9] + [plateau] * (PATIENCE - 1)) == []


@pytest.mark.parametrize("change", [{"alignment_form": "infonce"}, {"hardest_negatives": False}, {"margin": 0.0}])
def test_other_losses_have_no_such_plateau(change: dict[str, object]) -> None:
    loss = dataclasses.replace(HINGE, **change)  # type: ignore[arg-type]
    assert noticed(loss, [2 * loss.margin * 32] * (2 * PATIENCE)) == []


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_whose_scores_are_all_alike_is_said_also_where_steps_are_taken_in_parts(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "PATIENCE", 3)
    model = tiny_model(write_tokenizer(tmp_path))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    still = OptimizerConfig(learning_rate=0.0, new_learning_rate=0.0, image_learning_rate=0.0)
    recipe = Recipe(
        epochs=2, batch_images=4, views=1, precision="fp32", gradient_accumulation=parts, loss=HINGE, optimizer=still
    )
    seen = Recorder()
    trainer(recipe, tmp_path, model).run(seen)
    (sentence,) = seen.notes
    assert sentence.startswith(f"the alignment loss has been {2 * 0.2 * 8 / parts:.4g} for 3 steps")
