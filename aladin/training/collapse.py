"""A run in which every image and every caption comes to score alike, which the hinge on the hardest negatives invites."""

from collections.abc import Mapping

from aladin.training.recipe import Recipe

PATIENCE = 100  # steps that a loss has to stand there
NEAR = 0.01  # as a share of the loss


class Collapse:
    """Sees the losses of a run go by. Where all scores of a batch are equal, a hinge is twice its margin for each caption."""

    def __init__(self, recipe: Recipe) -> None:
        loss = recipe.loss
        forms = {"alignment": loss.alignment_form, "matching": loss.matching_form}
        hinged = [name for name, form in forms.items() if getattr(loss, name) > 0 and form == "hinge"]
        self._margin = loss.margin
        self._steps = dict.fromkeys(hinged if loss.hardest_negatives and loss.margin else [], 0)

    def noticed(self, losses: Mapping[str, float], captions: int | float) -> str:
        """A sentence once a loss has stood there for `PATIENCE` steps; "" otherwise. `captions` are those of one loss: of the
        step, or of its parts the mean.
        """
        plateau = 2 * self._margin * captions
        for name, steps in self._steps.items():
            at_it = abs(losses[f"unweighed loss {name}"] - plateau) <= NEAR * plateau
            self._steps[name] = steps + 1 if at_it else 0
            if self._steps[name] == PATIENCE:
                return (
                    f"the {name} loss has been {plateau:.4g} for {PATIENCE} steps, which is 2 x margin x captions: all images "
                    "and captions score alike; lower the learning rates, warm up, or set hardest_negatives to false at first"
                )
        return ""
