"""The names that commands, options, settings and weights had before; whoever still writes or keeps them is understood.

Nothing else in the package knows an old name.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

COMMANDS = {"add-whole-head": "add-global-head"}

OPTIONS = {"evaluate": {"--pairs": "--cross-encoder", "--pair-model": "--cross-encoder-model"}}  # by the command's present name

SETTINGS = {
    "pair_head": "cross_encoder",
    "pairs": "cross_encoder",
    "pairs_scale": "cross_encoder_scale",
    "whole_axes": "global_axes",
    "whole_dim": "global_dim",
    "whole_head": "global_head",
    "whole_hidden": "global_hidden",
    "whole_share": "global_share",
}

MOVED = {  # settings that stand in another table now: their table and name -> its table
    ("image", "size"): "preprocessing",
    ("limits", "caption_pieces"): "preprocessing",
}

VALUES = {"pair_head": "cross_encoder"}  # of settings that choose among names

HEADS = {"three-stage ": "cross-encoder "}  # how names of ways of scoring begin, in reports
SUBJECTS = {  # keys of what a report is of
    "pair_fingerprint": "cross_encoder_fingerprint",
    "pair_model": "cross_encoder_model",
    "pairs": "cross_encoder",
}
WEIGHTS = {  # how names of weights begin
    "pair_head.": "cross_encoder.",
    "whole_head.": "global_head.",
    "image_network.": "backbone.image_network.",
    "name_pieces": "backbone.name_pieces",
    "name_mask": "backbone.name_mask",
    "special_pieces": "backbone.special_pieces",
}

# Of training's losses that weigh themselves: their order in checkpoints that do not name them.
WEIGHED_LOSSES = (
    *("alignment", "caption_similarity_alignment", "matching", "distillation", "cross_encoder", "entropy", "hidden_l1"),
    *("cross_encoder_matching", "ensemble_alignment", "ensemble_matching", "cross_fitted_alignment", "cross_fitted_matching"),
)

# Settings of teachers in [loss] -> the kind of the teacher and its setting.
TAUGHT = {
    "caption_teacher": ("caption_similarity", "alignment"),
    "caption_teacher_scale": ("caption_similarity", "scale"),
    "pair_teacher_list": ("cross_encoder", "list_length"),
    "pair_teacher_scale": ("cross_encoder", "scale"),
    "ensemble_alignment": ("ensemble", "alignment"),
    "ensemble_matching": ("ensemble", "matching"),
    "ensemble_scale": ("ensemble", "scale"),
    "cross_fitted_alignment": ("cross_fitted", "alignment"),
    "cross_fitted_matching": ("cross_fitted", "matching"),
}
PAIR_TEACHER = ("pair_teacher", "pair_teacher_of")  # a weight in [loss], and which scores learn by it
CROSS_FITTED = {  # the table [cross_fitted] that a run wrote down which had no such teacher
    "networks": ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"],
    "size": 288,
    "folds": 5,
    "epochs": 40,
}


def present_recipe(table: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as it is written today: teachers that stood in [loss], [cross_fitted] and two lists are [[teacher]] tables."""
    recipe = dict(table)
    loss = recipe.get("loss")
    if isinstance(loss, Mapping):
        recipe["loss"] = {
            key if SETTINGS.get(key, key) in loss else SETTINGS.get(key, key): value
            for key, value in loss.items()
            if key not in TAUGHT and key not in PAIR_TEACHER
        }
    old = list(_teachers(recipe, loss if isinstance(loss, Mapping) else {}))
    written = recipe.get("teacher", [])
    if old or isinstance(written, str):
        recipe["teacher"] = [*(written if isinstance(written, list) else []), *old]
    for key in ("ensemble", "cross_fitted"):
        recipe.pop(key, None)
    if isinstance(recipe.get("train"), list):
        recipe["train"] = [VALUES.get(part, part) if isinstance(part, str) else part for part in recipe["train"]]
    return recipe


def _teachers(recipe: Mapping[str, Any], loss: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The teachers of an old recipe that count: with a weight, or with models or settings that lack one."""
    tables: dict[str, dict[str, Any]] = {kind: {} for kind, _ in TAUGHT.values()}
    for key, (kind, setting) in TAUGHT.items():
        if key in loss:
            tables[kind][setting] = loss[key]
    if "pair_teacher" in loss:
        tables["cross_encoder"][loss.get("pair_teacher_of", "matching")] = loss["pair_teacher"]
    folder, folders, fitted = recipe.get("teacher"), recipe.get("ensemble"), recipe.get("cross_fitted") or {}
    if isinstance(folder, str) and folder:
        tables["cross_encoder"]["models"] = [folder]
    if folders:
        tables["ensemble"]["models"] = folders
    described = any(CROSS_FITTED.get(key) != value for key, value in fitted.items())
    tables["cross_fitted"] |= fitted if described else {}
    for kind, settings in tables.items():
        weighed = settings.get("alignment") or settings.get("matching")
        if weighed or "models" in settings or (kind == "cross_fitted" and described):
            yield {"kind": kind, **settings}


def present_origins(origins: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is made of, as it is written down today: the models of each teacher under "teachers"."""
    present = dict(origins)
    teachers = dict(present.get("teachers", {}))
    if "teacher" in present:
        teachers["cross_encoder"] = {"models": [present.pop("teacher")]}
    if "ensemble" in present:
        teachers["ensemble"] = present.pop("ensemble")
    return present | ({"teachers": teachers} if teachers else {})


def renamed_head(name: str) -> str:
    """The present name of a way of scoring."""
    return _renamed(name, HEADS)


def renamed_subject(table: dict[str, Any]) -> dict[str, Any]:
    """What a report is of, by the present names of its keys."""
    return {SUBJECTS.get(key, key): value for key, value in table.items()}


def renamed_weight(name: str) -> str:
    """The present name of a weight."""
    return _renamed(name, WEIGHTS)


def _renamed(name: str, beginnings: dict[str, str]) -> str:
    for old, new in beginnings.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def renamed_arguments(arguments: list[str]) -> list[str]:
    """A command line as it is written today; what stands after `--` is nobody's option."""
    if not arguments:
        return arguments
    command = COMMANDS.get(arguments[0], arguments[0])
    if command == "train":
        arguments = _teachers_by_kind(arguments)
    options, rest, literal = OPTIONS.get(command, {}), [], False
    for argument in arguments[1:]:
        literal = literal or argument == "--"
        name, equals, value = argument.partition("=")
        rest.append(argument if literal else options.get(name, name) + equals + value)
    return [command, *rest]


def _teachers_by_kind(arguments: list[str]) -> list[str]:
    """`--ensemble FOLDER` and `--teacher FOLDER`, which was a cross-encoder's, as `--teacher KIND=FOLDER`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    split = [
        part
        for argument in arguments[:end]
        for part in (argument.split("=", 1) if argument.startswith(("--teacher=", "--ensemble=")) else [argument])
    ]
    for number, option in enumerate(split[:-1], 1):
        if option == "--ensemble":
            split[number - 1 : number + 1] = ["--teacher", f"ensemble={split[number]}"]
        elif option == "--teacher" and split[number] and not re.match("[a-z_]+=", split[number]):
            split[number] = f"cross_encoder={split[number]}"
    return split + arguments[end:]
