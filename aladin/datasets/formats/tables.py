"""Tables of pairs: CSV, TSV and Parquet, one row for each caption."""

import csv
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.formats.lines import CAPTION_KEYS, IMAGE_KEYS
from aladin.datasets.rows import Gathering, utf8
from aladin.errors import ConfigError, DataError


def read_delimited(path: Path, gathering: Gathering, delimiter: str = ",") -> None:
    """Adds every row of a CSV or TSV, whose first row names the columns; fields are quoted as spreadsheets do."""
    # surrogateescape: bytes that are not UTF-8 spoil their own row, not the rows beside it.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _check_utf8(header)
            columns = [header.index(name) for name in _columns(header, path)]
        except csv.Error as error:
            raise DataError(f"{path}, line 1: the fields cannot be told apart ({error}); correct the quotes") from None
        except BadRow as bad:
            raise DataError(f"{path}, line 1: {bad.found}; save the file as UTF-8") from None
        while True:
            with gathering.row(f"{path}, line {reader.line_num + 1}"):
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise BadRow("not CSV", f"the fields cannot be told apart ({error})", "correct the quotes") from None
                if fields:
                    _check_row(fields, header)
                    gathering.add_pair(*_three([fields[column] for column in columns]))


def read_parquet(path: Path, gathering: Gathering) -> None:
    """Adds every row of a Parquet file; rows are counted from 1."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"reading {path} needs pyarrow; run pip install 'aladin[train]'") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow.names, path)
            for batch in file.iter_batches(columns=columns):
                values = [_raw_values(batch.column(name)) for name in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    with gathering.row(f"{path}, row {number}"):
                        gathering.add_pair(*_three([utf8(v) if isinstance(v, bytes) else v for v in row]))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet after row {number} ({error}); write it again") from None


def _columns(names: list[str], path: Path) -> list[str]:
    """The columns of image, caption and, if there is one, split."""
    found = [_column("image", IMAGE_KEYS, names, path), _column("caption", CAPTION_KEYS, names, path)]
    return found + ["split"] * ("split" in names)


def _column(kind: str, known: Iterable[str], names: list[str], path: Path) -> str:
    for name in known:
        if name in names:
            return name
    columns = ", ".join(map(repr, names)) or "none"
    raise DataError(f"{path} has no column of the {kind} among {columns}; call it {' or '.join(known)}")


def _three(values: list[Any]) -> tuple[Any, Any, Any]:
    image, caption, *split = values
    return image, caption, split[0] if split else None


def _check_row(fields: list[str], header: list[str]) -> None:
    if len(fields) != len(header):
        raise BadRow(
            "wrong number of columns",
            f"{len(fields)} columns where the first line names {len(header)}",
            "quote fields that hold a delimiter,",
        )
    _check_utf8(fields)


def _check_utf8(fields: list[str]) -> None:
    for field in fields:
        if not field.isascii():
            utf8(field.encode("utf-8", "surrogateescape"))


def _raw_values(column: Any) -> list[Any]:
    """Texts as bytes, so that one that is not UTF-8 spoils its row alone; other values as they are."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        column = column.cast(pyarrow.large_binary())
    values: list[Any] = column.to_pylist()
    return values


READERS = {
    ".csv": read_delimited,
    ".tsv": functools.partial(read_delimited, delimiter="\t"),
    ".parquet": read_parquet,
}
