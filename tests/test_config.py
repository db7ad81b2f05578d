import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from aladin.config import from_table, read_toml, to_table
from aladin.encoder.config import Pooling
from aladin.errors import ConfigError
from aladin.training.recipe import LossConfig, Part, Recipe, read_recipe
from tests.tiny_learning import few_examples

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))

rates = st.floats(0, 10)
scales = st.floats(1e-3, 100)
small = st.integers(1, 9)
tables = st.fixed_dictionaries(
    {},
    optional={
        "train": st.permutations(["backbone", "image_network"]),
        "epochs": small,
        "batch_images": st.integers(2, 512),
        "seed": st.integers(0, 2**40),
        "precision": st.sampled_from(["bf16", "fp32"]),
        "loss": st.fixed_dictionaries({"alignment": scales, "margin": rates, "hardest_negatives": st.booleans()}),
        "optimizer": st.fixed_dictionaries({"learning_rate": rates, "clip_norm": scales, "warmup_steps": st.integers(0, 99)}),
        "model": st.fixed_dictionaries(
            {
                "backbone": st.fixed_dictionaries({"dim": small, "dropout": st.floats(0, 0.9)}),
                "limits": st.fixed_dictionaries({"tags": st.integers(0, 5)}),
            }
        ),
    },
)


def message(table: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        from_table(Recipe, table, "my.toml")
    return str(caught.value)


@few_examples
@given(table=tables)
def test_a_recipe_written_as_toml_and_read_back_is_the_same(
    table: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = from_table(Recipe, table)
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(tomli_w.dumps(to_table(recipe)))
    assert read_recipe(path) == recipe
    assert all(to_table(recipe)[key] == value for key, value in table.items() if not isinstance(value, dict))


def test_a_table_of_settings_holds_nothing_but_what_toml_and_json_know() -> None:
    table = to_table(Recipe())
    assert table["train"] == ["backbone"]
    assert table["loss"]["alignment"] == 1.0
    assert table["model"]["image"] == {
        "networks": ["efficientnet-lite0"],
        "grid": 7,
        "source": "photograph",
    }


def test_settings_left_out_keep_their_defaults() -> None:
    assert from_table(Recipe, {}) == Recipe()
    changed = from_table(Recipe, {"loss": {"margin": 0.3}})
    assert changed == dataclasses.replace(Recipe(), loss=LossConfig(margin=0.3))


def test_a_whole_number_will_do_where_any_number_is_expected() -> None:
    margin = from_table(Recipe, {"loss": {"margin": 1}}).loss.margin
    assert (margin, type(margin)) == (1.0, float)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_with_the_package_load(path: Path) -> None:
    assert read_recipe(path).epochs > 1


def test_there_are_the_recipes_that_the_documentation_names() -> None:
    assert {path.stem for path in RECIPES} == {
        "align",
        "both",
        "cross-fitted",
        "distil",
        "ensemble",
        "cross-encoder",
        "lite",
        "project",
        "taught",
        "triplet",
    }


@pytest.mark.parametrize(
    ("table", "near", "place"),
    [
        ({"epoch": 3}, "'epochs'", "my.toml"),
        ({"loss": {"marginn": 0.2}}, "'margin'", "[loss] of my.toml"),
        ({"model": {"backbone": {"layer": 2}}}, "'layers'", "[model.backbone] of my.toml"),
    ],
)
def test_an_unknown_setting_is_an_error_that_names_the_nearest_one_and_the_place(
    table: dict[str, Any], near: str, place: str
) -> None:
    assert f"did you mean {near}?" in message(table)
    assert place in message(table)


def test_an_unknown_setting_like_no_other_is_answered_with_all_of_them() -> None:
    assert "known are networks, grid, source" in message({"model": {"image": {"colourfulness": 1}}})


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"epochs": "ten"}, "epochs in my.toml is 'ten'; expected a whole number"),
        ({"epochs": 1.5}, "epochs in my.toml is 1.5; expected a whole number"),
        ({"epochs": True}, "epochs in my.toml is True; expected a whole number"),
        ({"loss": {"margin": "wide"}}, "margin in [loss] of my.toml is 'wide'; expected a number"),
        ({"loss": {"margin": True}}, "margin in [loss] of my.toml is True; expected a number"),
        ({"loss": {"margin": float("nan")}}, "margin in [loss] of my.toml is nan; expected a finite number"),
        ({"loss": {"alignment_scale": float("inf")}}, "expected a finite number"),
        ({"loss": {"hardest_negatives": 1}}, "hardest_negatives in [loss] of my.toml is 1; expected true or false"),
        ({"loss": 3}, "loss in my.toml is 3; expected a table [loss]"),
        ({"train": "backbone"}, "train in my.toml is 'backbone'; expected a list"),
        ({"train": ["backbone", 1]}, "item 2 of train in my.toml is 1; expected text"),
        ({"train": [["backbone"]]}, "item 1 of train in my.toml is ['backbone']; expected text"),
        ({"teacher": ["ensemble"]}, "item 1 of teacher in my.toml is 'ensemble'; expected a table with a kind, one of"),
        ({"teacher": [{"alignment": 1}]}, "kind of item 1 of teacher in my.toml is None; expected one of 'caption_similarity'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_that_says_which_kind_is_right(table: dict[str, Any], expected: str) -> None:
    assert expected in message(table)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"precision": "fp64"}, "expected one of 'fp32', 'bf16', 'fp16'"),
        ({"loss": {"alignment_form": "triplet"}}, "expected one of 'hinge', 'infonce'"),
        ({"loss": {"distillation_form": "kl"}}, "expected one of 'listnet', 'mse', 'ordinal', 'contrastive'"),
        ({"model": {"heads": {"pooling": "max"}}}, ", ".join(map(repr, typing.get_args(Pooling)))),
        ({"train": ["spine"]}, ", ".join(map(repr, typing.get_args(Part)))),
        ({"train": []}, "train is []; expected one or more of"),
    ],
)
def test_a_value_that_is_none_of_the_choices_is_an_error_that_lists_them(table: dict[str, Any], expected: str) -> None:
    assert expected in message(table)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"epochs": 0}, "my.toml: epochs is 0; expected at least 1"),
        ({"validate_every": 0}, "validate_every is 0; expected at least 1"),
        ({"batch_images": 1}, "batch_images is 1; expected at least 2"),
        ({"batch_images": -5}, "batch_images is -5; expected at least 2"),
        (
            {"batch_images": 5, "gradient_accumulation": 3},
            "each part needs 2 images, since the others are the negatives: set gradient_accumulation to at most 2",
        ),
        ({"loss": {"measure": "order"}}, "only the hinge of matching compares vectors so"),
        ({"loss": {"measure": "order", "matching": 1.0, "matching_form": "infonce"}}, 'set matching_form to "hinge"'),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"averaged_steps": -1}, "averaged_steps is -1; expected at least 0"),
        ({"dropped_words": 1.0}, "dropped_words is 1.0; expected at least 0 and less than 1"),
        ({"dropped_words": -0.1}, "dropped_words is -0.1; expected at least 0 and less than 1"),
        ({"dropped_words": 0.1, "train": ["projection"]}, "captions of a frozen transformer are encoded once; set it to 0"),
        ({"optimizer": {"layer_decay": 0.0}}, "layer_decay is 0.0; expected more than 0 and at most 1"),
        ({"model": {"image": {"networks": []}}}, "networks is []; expected one or more, each once"),
        ({"model": {"image": {"networks": ["resnet"]}}}, "item 1 of networks in [model.image] of my.toml is 'resnet'"),
        ({"image_network_from_epoch": -1}, "image_network_from_epoch is -1; expected at least 0"),
        ({"train": ["backbone", "backbone"]}, "expected each part once"),
        ({"loss": {"margin": -0.1}}, "[loss] of my.toml: margin is -0.1; expected at least 0"),
        ({"loss": {"alignment": -1}}, "alignment is -1.0; expected at least 0"),
        ({"loss": {"student_scale": 0}}, "student_scale is 0.0; expected more than 0"),
        ({"optimizer": {"clip_norm": 0}}, "[optimizer] of my.toml: clip_norm is 0.0; expected more than 0"),
        ({"optimizer": {"learning_rate": -1e-4}}, "learning_rate is -0.0001; expected at least 0"),
        ({"optimizer": {"warmup_steps": -1}}, "warmup_steps is -1; expected at least 0"),
        ({"model": {"backbone": {"layers": 0}}}, "[model.backbone] of my.toml: layers is 0; expected at least 1"),
        ({"model": {"backbone": {"dropout": 1.0}}}, "dropout is 1.0; expected at least 0 and less than 1"),
        ({"model": {"limits": {"caption_pieces": 1}}}, "caption_pieces is 1; expected at least 2"),
        ({"model": {"limits": {"tags": -1}}}, "tags is -1; expected at least 0"),
        ({"model": {"heads": {"matching_dropout": 1.0}}}, "matching_dropout is 1.0; expected at least 0 and less than 1"),
        ({"loss": {"ordinal_stride": 0}}, "ordinal_stride is 0; expected at least 1"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_says_the_range(table: dict[str, Any], expected: str) -> None:
    assert expected in message(table)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"loss": {"alignment": 0}}, "are all 0 and there is no [[teacher]]; give at least one a weight above 0"),
        ({"train": ["matching_head"]}, "matching and distillation in [loss] are 0 and matching of every [[teacher]]"),
        ({"train": ["matching_head"], "loss": {"distillation": 1}}, "set alignment in [loss] and of every [[teacher]] to 0"),
        ({"train": ["projection"], "loss": {"alignment": 0, "matching": 1}}, "nothing else teaches it"),
        ({"teacher": [{"kind": "cross_fitted", "folds": 3}]}, "the teacher of kind 'cross_fitted' has no weight; give"),
        (
            {"teacher": [{"kind": "cross_fitted", "alignment": 1, "folds": 1}]},
            "teacher in my.toml: folds is 1; expected",
        ),
        ({"teacher": 2 * [{"kind": "ensemble", "alignment": 1}]}, "of the kinds ensemble, ensemble; give each kind once"),
        ({"loss": {"learned_weights": True, "entropy": 0.1}}, "entropy can be less than 0, and a loss below 0 would"),
    ],
)
def test_a_recipe_by_which_something_would_never_learn_is_an_error(table: dict[str, Any], expected: str) -> None:
    assert expected in message(table)


def test_a_file_that_is_not_toml_is_an_error_with_the_position(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("epochs = 3\n[loss\nmargin = 1\n")
    with pytest.raises(ConfigError, match=r"broken\.toml cannot be read as TOML: .*line 2, column"):
        read_toml(path)


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_toml(path)


def test_a_file_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_recipe(tmp_path / "none.toml")
