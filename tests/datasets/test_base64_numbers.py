import base64
import binascii

from hypothesis import given
from hypothesis import strategies as st

from aladin.datasets.vinvl.base64_numbers import decoded


def by_the_standard_library(text: bytes) -> bytes | str:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        return str(error)


def by_numpy(text: bytes) -> bytes | str:
    try:
        return decoded(text)
    except binascii.Error as error:
        return str(error)


@given(content=st.binary(max_size=300))
def test_what_was_encoded_is_decoded(content: bytes) -> None:
    assert decoded(base64.b64encode(content)) == content


@given(content=st.binary(max_size=60), place=st.integers(0, 99), wrong=st.binary(max_size=3), cut=st.integers(0, 99))
def test_what_is_no_base64_is_refused_in_the_same_words(content: bytes, place: int, wrong: bytes, cut: int) -> None:
    text = base64.b64encode(content)
    spoilt = text[:place] + wrong + text[place + len(wrong) :]
    for found in (spoilt, text[:cut], text + wrong, b"=" + text):
        assert by_numpy(found) == by_the_standard_library(found)
