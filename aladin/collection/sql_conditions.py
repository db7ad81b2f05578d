"""Conditions as SQLite takes them: SQL without a word of the user's, and the values for its question marks."""

from aladin.collection.conditions import Column, Condition, Constant, Function, Metadata, Operation, Scalar
from aladin.collection.schema import local_time

PATH = "CAST(path AS TEXT)"  # stored as the bytes of the file system
FOLDER = f"rtrim({PATH}, replace({PATH}, '/', ''))"  # with its slash: what remains when the last name's letters are taken off
COLUMN_SQL = {
    "path": PATH,
    "folder": f"rtrim({FOLDER}, '/')",
    "name": f"substr({PATH}, length({FOLDER}) + 1)",
    "modified": local_time("mtime_ns"),
    "date": "nullif(date, '')",
} | {name: name for name in ("frame", "size", "width", "height", "taken", "id")} | {
    fact: f"json_extract(metadata, '$.{fact}')"
    for fact in ("camera", "lens", "iso", "f_number", "exposure_s", "focal_mm", "latitude", "longitude", "description")
}  # fmt: skip
# How those are written that are not written as they are called.
FUNCTION_SQL = {"month": "CAST(strftime('%m', {}) AS INTEGER)", "year": "CAST(strftime('%Y', {}) AS INTEGER)"}
FORMS = {
    "not": "(NOT {0})",
    "negative": "(- {0})",
    "is null": "({0} IS NULL)",
    "is not null": "({0} IS NOT NULL)",
    "between": "({0} BETWEEN {1} AND {2})",
    "not between": "({0} NOT BETWEEN {1} AND {2})",
}

Sql = tuple[str, tuple[Scalar, ...]]  # with question marks, and the values for these in their order


def compiled(condition: Condition | None) -> Sql:
    """The condition in SQL; None, which every image meets, too."""
    values: list[Scalar] = []

    def sql(term: Condition) -> str:
        match term:
            case Constant(value):
                values.append(value)
                return "?"
            case Column(name):
                return COLUMN_SQL[name]
            case Metadata(keys):
                values.append("$" + "".join(f'."{key}"' for key in keys))
                return "json_extract(metadata, ?)"
            case Function(name, arguments):
                return FUNCTION_SQL.get(name, f"{name}({{}})").format(", ".join(map(sql, arguments)))
            case Operation(operator, operands):
                written = [sql(operand) for operand in operands]
                if operator in FORMS:
                    return FORMS[operator].format(*written)
                if operator in ("in", "not in"):
                    return f"({written[0]} {operator.upper()} ({', '.join(written[1:])}))"
                return f"({f' {operator.upper()} '.join(written)})"

    return ("TRUE" if condition is None else sql(condition)), tuple(values)
