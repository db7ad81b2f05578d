"""Which images a search may find: a condition in SQL's words on what is known of them, such as `taken > '2024'`.

The text is parsed here and written anew: names come from a fixed list, every literal becomes a parameter, and nothing else can
be expressed, so no part of what a user types reaches the database as SQL. That is why this is a parser and not a check by
SQLite itself, which would also have to be kept from subqueries, comments and functions, and whose complaints name no place.

    condition   = conjunction {OR conjunction}
    conjunction = negation {AND negation}
    negation    = [NOT] comparison
    comparison  = sum [(= | == | != | <> | < | <= | > | >=) sum | [NOT] (LIKE | GLOB) sum | [NOT] BETWEEN sum AND sum
                  | [NOT] IN (sum {, sum}) | IS [NOT] NULL]
    sum         = product {(+ | -) product}
    product     = factor {(* | / | %) factor}
    factor      = - factor | number | 'text' | TRUE | FALSE | column | function (sum {, sum}) | (condition)

It means what it means in SQLite: text is compared character by character, so that dates compare as they should; what is not
known is NULL and meets no condition; LIKE ignores the case of ASCII letters. Only a comparison of a number with text is
refused, as the mistake that it is: to SQLite every text is more than every number.
"""

import difflib
import posixpath
import re
from dataclasses import dataclass
from typing import Literal

from aladin.collection.schema import local_time
from aladin.errors import ConfigError

MAX_CHARACTERS = 4000
MAX_DEPTH = 40  # of brackets and negations inside each other
PATH = "CAST(path AS TEXT)"  # stored as the bytes of the file system
FOLDER = f"rtrim({PATH}, replace({PATH}, '/', ''))"  # with its slash: what remains when the last name's letters are taken off
COLUMNS = {
    "path": PATH,  # relative to the collection's folder
    "folder": f"rtrim({FOLDER}, '/')",  # '' for the images that are in no folder below
    "name": f"substr({PATH}, length({FOLDER}) + 1)",
    "frame": "frame",  # which of the file's pictures, 0 for the first
    "size": "size",  # bytes
    "width": "width",  # px, upright
    "height": "height",
    "taken": "taken",  # local time of the camera, as 2026-05-01T12:30:00
    "modified": local_time("mtime_ns"),  # the file, in the same form
    "date": "nullif(date, '')",
    "id": "id",
} | {
    fact: f"json_extract(metadata, '$.{fact}')"
    for fact in ("camera", "lens", "iso", "f_number", "exposure_s", "focal_mm", "latitude", "longitude", "description")
}  # fmt: skip
NUMBERS = frozenset(
    ("frame", "size", "width", "height", "id", "iso", "f_number", "exposure_s", "focal_mm", "latitude", "longitude")
)  # all other columns are text
FREE = "metadata"  # metadata.key.key, metadata."any key": whatever else is known
Kind = Literal["number", "text"] | None  # None: either, as what others have written beside an image
# Name -> how it is written, with how many arguments it may be called, and what it gives.
FUNCTIONS: dict[str, tuple[str, int, int, Kind]] = {
    "coalesce": ("coalesce({})", 2, 9, None),
    "date": ("date({})", 1, 1, "text"),
    "instr": ("instr({})", 2, 2, "number"),
    "length": ("length({})", 1, 1, "number"),
    "lower": ("lower({})", 1, 1, "text"),
    "month": ("CAST(strftime('%m', {}) AS INTEGER)", 1, 1, "number"),
    "round": ("round({})", 1, 2, "number"),
    "substr": ("substr({})", 2, 3, "text"),
    "time": ("time({})", 1, 1, "text"),
    "trim": ("trim({})", 1, 1, "text"),
    "upper": ("upper({})", 1, 1, "text"),
    "year": ("CAST(strftime('%Y', {}) AS INTEGER)", 1, 1, "number"),
}
COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
WORDS = frozenset(("and", "or", "not", "like", "glob", "between", "in", "is", "null", "true", "false"))
TOKEN = re.compile(
    r"""\s*(?: (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w)) | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"[^"]*") | (?P<name>[^\W\d]\w*) | (?P<sign>==|!=|<>|<=|>=|[-=<>+*/%(),.]) | (?P<end>$) )""",
    re.VERBOSE,
)

Value = str | int | float


@dataclass(frozen=True)
class Condition:
    """A condition as the database takes it: SQL without a word of the user's, and the values for its question marks."""

    sql: str
    values: tuple[Value, ...]


def parsed(where: str) -> Condition:
    """The condition that `where` states; ConfigError with the place where it stops making sense."""
    return _Parser(where).condition_alone()


def quoted(text: str) -> str:
    """`text` as a literal of a condition."""
    return "'" + text.replace("'", "''") + "'"


def within_folder(folder: str) -> str:
    """The condition that an image is in this folder, a path relative to the collection's, or below it."""
    prefix = posixpath.normpath(folder).strip("/") + "/"
    return "1 = 1" if prefix == "./" else f"substr(path, 1, {len(prefix)}) = {quoted(prefix)}"


@dataclass(frozen=True)
class _Token:
    kind: str  # number, text, quoted, name, sign or end
    text: str
    place: int  # of its first character, from 1


@dataclass(frozen=True)
class _Term:
    """What a line of the grammar becomes: SQL, and what it is."""

    sql: str
    kind: Kind = "number"  # as truth values are


ANYTHING = _Term("", None)


class _Parser:
    """Each method reads one line of the grammar and gives its term; literals gather in `_values` in their order."""

    def __init__(self, where: str) -> None:
        self._where = where
        if len(where) > MAX_CHARACTERS:
            raise ConfigError(f"the condition has {len(where):,} characters; expected {MAX_CHARACTERS:,} or fewer")
        if not where.isascii() and any("\ud800" <= character <= "\udfff" for character in where):
            raise ConfigError("the condition has bytes that are not UTF-8; write it in UTF-8")
        self._tokens = self._split()
        self._next = 0
        self._depth = 0
        self._values: list[Value] = []

    def condition_alone(self) -> Condition:
        if self._peek().kind == "end":
            raise ConfigError("the condition is empty; write one such as: taken >= '2024' AND width > 4000")
        term = self._condition()
        if self._peek().kind != "end":
            raise self._error("expected AND, OR or the end")
        return Condition(term.sql, tuple(self._values))

    def _condition(self) -> _Term:
        parts = [self._conjunction()]
        while self._word("or"):
            parts.append(self._conjunction())
        return _joined(" OR ", parts)

    def _conjunction(self) -> _Term:
        parts = [self._negation()]
        while self._word("and"):
            parts.append(self._negation())
        return _joined(" AND ", parts)

    def _negation(self) -> _Term:
        if not self._word("not"):
            return self._comparison()
        self._deeper()
        term = _Term(f"(NOT {self._negation().sql})")
        self._depth -= 1
        return term

    def _comparison(self) -> _Term:
        left = self._sum()
        if sign := self._sign(*COMPARISONS):
            return _Term(f"({left.sql} {sign} {self._alike(left).sql})")
        if self._word("is"):
            negated = "NOT " if self._word("not") else ""
            self._expect_word("null")
            return _Term(f"({left.sql} IS {negated}NULL)")
        negated = "NOT " if self._word("not") else ""
        for word in ("like", "glob"):
            if self._word(word):
                return _Term(f"({left.sql} {negated}{word.upper()} {self._sum().sql})")
        if self._word("between"):
            low = self._alike(left)
            self._expect_word("and")
            return _Term(f"({left.sql} {negated}BETWEEN {low.sql} AND {self._alike(left).sql})")
        if self._word("in"):
            self._expect_sign("(")
            return _Term(f"({left.sql} {negated}IN ({_listed(self._list(left))}))")
        if negated:
            raise self._error("expected LIKE, GLOB, BETWEEN or IN after NOT")
        return left

    def _alike(self, left: _Term) -> _Term:
        """A sum that may be compared with `left`."""
        token = self._peek()
        right = self._sum()
        if {left.kind, right.kind} == {"number", "text"}:
            advice = "text has quotes, such as '2024'" if left.kind == "text" else "a number has no quotes"
            this, other = ("text", "a number") if right.kind == "text" else ("a number", "text")
            raise self._error(f"this is {this}, and it is compared with {other}; {advice}", token)
        return right

    def _sum(self) -> _Term:
        term = self._product()
        while sign := self._sign("+", "-"):
            term = _Term(f"({term.sql} {sign} {self._product().sql})")
        return term

    def _product(self) -> _Term:
        term = self._factor()
        while sign := self._sign("*", "/", "%"):
            term = _Term(f"({term.sql} {sign} {self._factor().sql})")
        return term

    def _factor(self) -> _Term:
        token = self._peek()
        if self._sign("-"):
            self._deeper()
            term = _Term(f"(- {self._factor().sql})")
            self._depth -= 1
            return term
        if self._sign("("):
            self._deeper()
            term = self._condition()
            self._depth -= 1
            self._expect_sign(")")
            return _Term(f"({term.sql})", term.kind)
        if token.kind in ("number", "text"):
            self._next += 1
            return self._literal(token)
        if token.kind == "name" and token.text.lower() not in WORDS - {"true", "false"}:
            self._next += 1
            return self._name(token)
        if token.kind == "quoted":
            raise self._error(f"expected text in single quotes, '{token.text[1:-1]}'")
        raise self._error("expected a column, a number or text in single quotes")

    def _literal(self, token: _Token) -> _Term:
        if token.kind == "text":
            return _Term(self._parameter(token.text[1:-1].replace("''", "'")), "text")
        whole = token.text.isdigit() and int(token.text) < 2**63
        return _Term(self._parameter(int(token.text) if whole else float(token.text)))

    def _name(self, token: _Token) -> _Term:
        name = token.text.lower()
        if name in ("true", "false"):
            return _Term(self._parameter(int(name == "true")))
        if self._sign("("):
            return self._function(token)
        if name == FREE:
            return self._free_metadata()
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, [*COLUMNS, FREE], n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COLUMNS)} and {FREE}.KEY"
            raise self._error(f"there is no column {token.text}; {hint}", token)
        return _Term(COLUMNS[name], "number" if name in NUMBERS else "text")

    def _free_metadata(self) -> _Term:
        keys: list[str] = []
        while self._sign("."):
            token = self._peek()
            if token.kind not in ("name", "quoted"):
                raise self._error("expected a key after the dot")
            self._next += 1
            keys.append(token.text.strip('"'))
        if not keys:
            raise self._error(f"expected .KEY after {FREE}")
        path = "$" + "".join(f'."{key}"' for key in keys)
        return _Term(f"json_extract({FREE}, {self._parameter(path)})", None)

    def _function(self, token: _Token) -> _Term:
        name = token.text.lower()
        if name not in FUNCTIONS:
            raise self._error(f"there is no function {token.text}; known are {', '.join(FUNCTIONS)}", token)
        form, least, most, kind = FUNCTIONS[name]
        arguments = self._list()
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self._error(f"{name} has {len(arguments)} arguments, expected {wanted}", token)
        return _Term(form.format(_listed(arguments)), kind)

    def _list(self, left: _Term = ANYTHING) -> list[_Term]:
        """One sum or more, each such as may be compared with `left`, up to a closing bracket; the opening one has been read."""
        self._deeper()
        sums = [self._alike(left)]
        while self._sign(","):
            sums.append(self._alike(left))
        self._expect_sign(")")
        self._depth -= 1
        return sums

    def _parameter(self, value: Value) -> str:
        self._values.append(value)
        return "?"

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        place = 0
        while not tokens or tokens[-1].kind != "end":
            found = TOKEN.match(self._where, place)
            if found is None:
                rest = self._where[place:].lstrip()
                reason = "this text has no closing quote" if rest[0] in "'\"" else "this means nothing here"
                token = _Token("sign", rest[:1], len(self._where) - len(rest) + 1)
                raise self._error(reason, token)
            assert found.lastgroup is not None
            tokens.append(_Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1))
            place = found.end()
        return tokens

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _word(self, word: str) -> bool:
        """Whether the next token is this word; if so it has been read."""
        token = self._peek()
        if token.kind != "name" or token.text.lower() != word:
            return False
        self._next += 1
        return True

    def _sign(self, *signs: str) -> str | None:
        token = self._peek()
        if token.kind != "sign" or token.text not in signs:
            return None
        self._next += 1
        return token.text

    def _expect_word(self, word: str) -> None:
        if not self._word(word):
            raise self._error(f"expected {word.upper()}")

    def _expect_sign(self, sign: str) -> None:
        if not self._sign(sign):
            raise self._error(f"expected {sign}")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} brackets inside each other")

    def _error(self, reason: str, token: _Token | None = None) -> ConfigError:
        token = token or self._peek()
        what = "at its end" if token.kind == "end" else f"at character {token.place}, {token.text[:40]!r}"
        return ConfigError(f"the condition is not understood {what}: {reason}")


def _joined(operator: str, parts: list[_Term]) -> _Term:
    return parts[0] if len(parts) == 1 else _Term(f"({operator.join(part.sql for part in parts)})")


def _listed(terms: list[_Term]) -> str:
    return ", ".join(term.sql for term in terms)
