"""The names that commands, options, settings and weights had before; whoever still writes or keeps them is understood.

Nothing else in the package knows an old name.
"""

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

VALUES = {"pair_head": "cross_encoder"}  # of settings that choose among names

HEADS = {"three-stage ": "cross-encoder "}  # how names of ways of scoring begin, in reports
WEIGHTS = {  # how names of weights begin
    "pair_head.": "cross_encoder.",
    "whole_head.": "global_head.",
    "image_network.": "backbone.image_network.",
    "name_pieces": "backbone.name_pieces",
    "name_mask": "backbone.name_mask",
    "special_pieces": "backbone.special_pieces",
}


def renamed_head(name: str) -> str:
    """The present name of a way of scoring."""
    return _renamed(name, HEADS)


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
    options, rest, literal = OPTIONS.get(command, {}), [], False
    for argument in arguments[1:]:
        literal = literal or argument == "--"
        name, equals, value = argument.partition("=")
        rest.append(argument if literal else options.get(name, name) + equals + value)
    return [command, *rest]
