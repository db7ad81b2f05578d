"""Which images a search may find: a condition in SQL's words on what is known of them, such as `taken > '2024'`.

The text is parsed here into a tree, which a store compiles. Names come from a fixed list, every literal becomes a parameter,
and nothing else can be expressed, so no part of what a user types reaches a database as SQL. That is why this is a parser and
not a check by SQLite itself, which would also have to be kept from subqueries, comments and functions, and whose complaints
name no place.

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
from typing import cast

from aladin.collection.conditions import (
    COLUMNS,
    FUNCTIONS,
    Column,
    Condition,
    Constant,
    Function,
    Kind,
    Metadata,
    Operation,
    Operator,
)
from aladin.errors import ConfigError

MAX_CHARACTERS = 4000
MAX_DEPTH = 40  # of brackets and negations inside each other
MAX_OPERATIONS = 24  # inside each other: SQLite's parser holds a hundred open pieces
FREE = "metadata"  # metadata.key.key, metadata."any key": whatever else is known
COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
WORDS = frozenset(("and", "or", "not", "like", "glob", "between", "in", "is", "null", "true", "false"))
TOKEN = re.compile(
    r"""\s*(?: (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w)) | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"[^"]*") | (?P<name>[^\W\d]\w*) | (?P<sign>==|!=|<>|<=|>=|[-=<>+*/%(),.]) | (?P<end>$) )""",
    re.VERBOSE,
)


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
    start: int  # of its first character, from 1


@dataclass(frozen=True)
class _Term:
    """What a line of the grammar becomes, and of what kind its value is."""

    tree: Condition
    kind: Kind = "number"  # as truth values are
    depth: int = 0  # operations inside each other


ANYTHING = _Term(Constant(""), None)


class _Parser:
    """Each method reads one line of the grammar and gives its term; and gives"""

    def __init__(self, where: str) -> None:
        self._where = where
        if len(where) > MAX_CHARACTERS:
            raise ConfigError(f"the condition has {len(where):,} characters; expected {MAX_CHARACTERS:,} or fewer")
        if not where.isascii() and any("\ud800" <= character <= "\udfff" for character in where):
            raise ConfigError("the condition has bytes that are not UTF-8; write it in UTF-8")
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def condition_alone(self) -> Condition:
        if self._peek().kind == "end":
            raise ConfigError("the condition is empty; write one such as: taken >= '2024' AND width > 4000")
        term = self._condition()
        if self._peek().kind != "end":
            raise self._error("expected AND, OR or the end")
        if term.depth > MAX_OPERATIONS:
            raise ConfigError(
                f"the condition has {term.depth} operations inside each other; expected {MAX_OPERATIONS} or fewer"
            )
        return term.tree

    def _condition(self) -> _Term:
        parts = [self._conjunction()]
        while self._word("or"):
            parts.append(self._conjunction())
        return _joined("or", parts)

    def _conjunction(self) -> _Term:
        parts = [self._negation()]
        while self._word("and"):
            parts.append(self._negation())
        return _joined("and", parts)

    def _negation(self) -> _Term:
        if not self._word("not"):
            return self._comparison()
        self._deeper()
        term = _operation("not", self._negation())
        self._depth -= 1
        return term

    def _comparison(self) -> _Term:
        left = self._sum()
        if sign := self._sign(*COMPARISONS):
            return _operation(sign, left, self._alike(left))
        if self._word("is"):
            negated = "not " if self._word("not") else ""
            self._expect_word("null")
            return _operation(f"is {negated}null", left)
        negated = "not " if self._word("not") else ""
        for word in ("like", "glob"):
            if self._word(word):
                return _operation(f"{negated}{word}", left, self._sum())
        if self._word("between"):
            low = self._alike(left)
            self._expect_word("and")
            return _operation(f"{negated}between", left, low, self._alike(left))
        if self._word("in"):
            self._expect_sign("(")
            return _operation(f"{negated}in", left, *self._list(left))
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
            term = _operation(sign, term, self._product())
        return term

    def _product(self) -> _Term:
        term = self._factor()
        while sign := self._sign("*", "/", "%"):
            term = _operation(sign, term, self._factor())
        return term

    def _factor(self) -> _Term:
        token = self._peek()
        if self._sign("-"):
            self._deeper()
            term = _operation("negative", self._factor())
            self._depth -= 1
            return term
        if self._sign("("):
            self._deeper()
            term = self._condition()
            self._depth -= 1
            self._expect_sign(")")
            return term
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
            return _Term(Constant(token.text[1:-1].replace("''", "'")), "text")
        whole = token.text.isdigit() and int(token.text) < 2**63
        return _Term(Constant(int(token.text) if whole else float(token.text)))

    def _name(self, token: _Token) -> _Term:
        name = token.text.lower()
        if name in ("true", "false"):
            return _Term(Constant(int(name == "true")))
        if self._sign("("):
            return self._function(token)
        if name == FREE:
            return self._free_metadata()
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, [*COLUMNS, FREE], n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COLUMNS)} and {FREE}.KEY"
            raise self._error(f"there is no column {token.text}; {hint}", token)
        return _Term(Column(name), COLUMNS[name])

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
        return _Term(Metadata(tuple(keys)), None)

    def _function(self, token: _Token) -> _Term:
        name = token.text.lower()
        if name not in FUNCTIONS:
            raise self._error(f"there is no function {token.text}; known are {', '.join(FUNCTIONS)}", token)
        least, most, kind = FUNCTIONS[name]
        arguments = self._list()
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self._error(f"{name} has {len(arguments)} arguments, expected {wanted}", token)
        depth = 2 + max(argument.depth for argument in arguments)  # twice as dear to SQLite's parser
        return _Term(Function(name, tuple(argument.tree for argument in arguments)), kind, depth)

    def _list(self, left: _Term = ANYTHING) -> list[_Term]:
        """One sum or more, each such as may be compared with `left`, up to a closing bracket; the opening one has been read."""
        self._deeper()
        sums = [self._alike(left)]
        while self._sign(","):
            sums.append(self._alike(left))
        self._expect_sign(")")
        self._depth -= 1
        return sums

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while not tokens or tokens[-1].kind != "end":
            found = TOKEN.match(self._where, position)
            if found is None:
                rest = self._where[position:].lstrip()
                reason = "this text has no closing quote" if rest[0] in "'\"" else "this means nothing here"
                token = _Token("sign", rest[:1], len(self._where) - len(rest) + 1)
                raise self._error(reason, token)
            assert found.lastgroup is not None
            tokens.append(_Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1))
            position = found.end()
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
        what = "at its end" if token.kind == "end" else f"at character {token.start}, {token.text[:40]!r}"
        return ConfigError(f"the condition is not understood {what}: {reason}")


def _joined(operator: Operator, parts: list[_Term]) -> _Term:
    return parts[0] if len(parts) == 1 else _operation(operator, *parts)


def _operation(operator: str, *operands: _Term) -> _Term:
    """An operation, whose value is a number, as truth values are."""
    depth = 1 + max(operand.depth for operand in operands)
    return _Term(Operation(cast(Operator, operator), tuple(operand.tree for operand in operands)), depth=depth)
