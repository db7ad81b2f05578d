from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aladin.errors import ConfigError
from aladin.pictures.boxes import Box

sides = st.integers(1, 5000)


@given(x=st.integers(0, 100), y=st.integers(0, 100), width=st.integers(7, 5000), height=st.integers(7, 5000))
def test_cells_cover_the_box_without_gap_or_overlap(x: int, y: int, width: int, height: int) -> None:
    box = Box(x, y, width, height)
    cells = box.cells(7)
    assert sum(cell.width * cell.height for cell in cells) == width * height
    assert [cell.y for cell in cells] == sorted(cell.y for cell in cells)
    for row in range(7):
        line = cells[7 * row : 7 * row + 7]
        assert line[0].x == x
        assert all(one.x + one.width == next_one.x for one, next_one in pairwise(line))
        assert line[-1].x + line[-1].width == x + width
    assert cells[-1].y + cells[-1].height == y + height


@given(width=sides, height=sides)
def test_every_cell_has_a_pixel(width: int, height: int) -> None:
    for cell in Box(0, 0, width, height).cells(7):
        assert cell.x < width
        assert cell.y < height


@given(x=sides, y=sides, width=sides, height=sides)
def test_a_box_is_read_as_it_is_written(x: int, y: int, width: int, height: int) -> None:
    box = Box(x, y, width, height)
    assert Box.parse(str(box)) == box


def test_fractions_are_rounded_and_spaces_allowed() -> None:
    assert Box.parse("1.4, 2.6,10.,20") == Box(1, 3, 10, 20)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,0,4", "-1,2,3,4", "1,2,3,0.4", "1,2,3,nan", "1;2;3;4"]
)
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected x,y,width,height in px"):
        Box.parse(text)


def test_a_box_is_cut_to_the_picture() -> None:
    assert Box(50, 20, 100, 5).within(100, 100) == Box(50, 20, 50, 5)
    with pytest.raises(ConfigError, match="is outside the picture, which has 50 x 100 px"):
        Box(50, 20, 10, 10).within(50, 100)
