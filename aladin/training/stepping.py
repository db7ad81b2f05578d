"""One step of training: gradients, whether they can be followed, and the optimizer's step by them."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.errors import TrainingError
from aladin.network.run import Run
from aladin.training.batches import DROPOUT, Step, seed_for
from aladin.training.checkpoint import Learning
from aladin.training.optimizer import set_rates, share_of_rates
from aladin.training.recipe import Recipe
from aladin.training.sharing import add_gradients

LEAST_SCALE = 1.0  # of losses in fp16; gradients that are infinite at that are so by themselves


class Stepping:
    """Steps of a run, each fixed by the recipe's seed and the step's number."""

    def __init__(self, recipe: Recipe, learning: Learning, run: Run, total_steps: int) -> None:
        self._recipe, self._learning, self._run, self._total_steps = recipe, learning, run, total_steps

    def learn(self, step: Step) -> dict[str, float]:
        """Take it; what the log says of it."""
        share = share_of_rates(self._recipe.optimizer, step.number, step.epoch, self._total_steps)
        set_rates(self._learning.optimizer, share)
        # Dropout draws from torch's own generator, which so is the same at this step of a resumed run.
        torch.manual_seed(seed_for(self._recipe.seed, DROPOUT, step.number, self._run.rank))
        self._set_dropout()
        measured = self.backward(step)
        # A GPU is waited for once a step: here.
        record = dict(zip(measured, torch.stack(list(measured.values())).tolist(), strict=True))
        if self._finite(step, record):
            self.update()
        else:
            del record["gradient norm"]  # which is none, and no number that a line of JSON may hold
        return record | {"rate": share}

    def part_count(self, step: Step) -> int:
        """Of how many parts of a step the losses of the log are the mean."""
        return len(step.apart(self._recipe.gradient_accumulation))

    def backward(self, step: Step) -> dict[str, Float[Tensor, ""]]:
        """The gradients of a step, clipped; and each loss, their sum and the gradient's norm."""
        self._learning.optimizer.zero_grad(set_to_none=True)
        parts = step.apart(self._recipe.gradient_accumulation)
        measured: dict[str, Tensor] = {}
        for part in parts:
            losses = self._learning.objective.losses(part)
            weighed = self._learning.objective.weighed(losses)
            total = torch.stack(list(weighed.values())).sum() / len(parts)
            torch.autograd.backward(self._learning.scaler.scale(total))
            found = {f"loss {name}": value for name, value in weighed.items()}
            found |= {f"unweighed loss {name}": value for name, value in losses.items()}
            found = {name: value.detach().float() / len(parts) for name, value in found.items()} | {"loss": total.detach()}
            measured = {name: value + measured[name] if name in measured else value for name, value in found.items()}
        weights = [weight for group in self._learning.optimizer.param_groups for weight in group["params"]]
        add_gradients([weight for weight in weights if weight.requires_grad], self._run)
        self._learning.scaler.unscale_(self._learning.optimizer)
        norm = nn.utils.clip_grad_norm_(weights, self._recipe.optimizer.clip_norm)
        return measured | {"gradient norm": norm}

    def update(self) -> None:
        """The optimizer's step by the gradients that there are."""
        self._learning.scaler.step(self._learning.optimizer)
        self._learning.scaler.update()
        if self._learning.averaged is not None:
            self._learning.averaged.update_parameters(self._learning.model)

    def _finite(self, step: Step, record: Mapping[str, float]) -> bool:
        """Whether a step can be taken by its gradient. TrainingError where it is no number, without being scaled too much."""
        for name in ("loss", "gradient norm"):
            if not math.isfinite(record[name]):
                if name == "gradient norm" and self._learning.scaler.is_enabled():
                    self._learning.scaler.update()
                    if self._learning.scaler.get_scale() >= LEAST_SCALE:
                        return False
                # A step by it would make every weight a NaN, and the next checkpoint worthless.
                raise _cannot_go_on(name, step, record)
        return True

    def _set_dropout(self) -> None:
        """On in what learns alone, so that a frozen teacher gives the same words and regions the same scores; or everywhere."""
        self._learning.model.train()
        if self._recipe.frozen_dropout:
            return
        model = self._learning.model
        learn_together = {"backbone": (model.backbone, *model.after_backbone), "matching_head": model.matching_parts}
        for part, modules in learn_together.items():
            for module in modules:
                module.train(part in self._recipe.train)


def _cannot_go_on(what: str, step: Step, record: Mapping[str, float]) -> TrainingError:
    losses = {name.removeprefix("unweighed loss "): value for name, value in record.items() if name.startswith("unweighed ")}
    parts = ", ".join(f"{name} loss {value:.4g}" for name, value in losses.items())
    return TrainingError(
        f"the {what} is {record[what]} at step {step.number} (epoch {step.epoch}; {parts}); expected a finite number; lower "
        "the learning rates or set precision to fp32, and start anew with another --out"
    )
