"""All of a run that changes from step to step, as tensors under names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from aladin.network.model import Aladin
from aladin.old_names import WEIGHED_LOSSES, renamed_weight
from aladin.training.objective import Objective

MODEL, AVERAGED, OPTIMIZER = "model.", "averaged.", "optimizer."
AVERAGED_MODEL = "averaged.module."


@dataclass(frozen=True)
class Learning:
    """What learns, and the optimizer with its moments."""

    model: Aladin
    averaged: AveragedModel | None
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of losses in fp16

    def state(self) -> dict[str, Tensor]:
        """Everything as it stands."""
        state = {f"{MODEL}{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.averaged is not None:
            state |= {f"{AVERAGED}{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        objective = self.objective
        state |= {"score_fit": objective.score_fit.detach(), "log_variances": objective.log_variances.detach()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"{OPTIMIZER}{number}.{name}": tensor for name, tensor in moments.items()}
        return state

    @property
    def metadata(self) -> dict[str, str]:
        """What `restore` has to know of a state beside its tensors."""
        return {"losses": json.dumps(self.objective.names), "scaler": json.dumps(self.scaler.state_dict())}

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state is one of a model of these sizes."""
        shapes = {name: weight.shape for name, weight in self.model.state_dict().items()}
        return {name: tensor.shape for name, tensor in _part(state, MODEL).items()} == shapes

    def restore(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Everything as it stood, also where an earlier version wrote it."""
        self.model.load_state_dict(_part(state, MODEL))
        if self.averaged is not None:
            counted = {"n_averaged": state[f"{AVERAGED}n_averaged"]}
            module = {f"module.{name}": tensor for name, tensor in _part(state, AVERAGED_MODEL).items()}
            self.averaged.load_state_dict(counted | module)
        if self.scaler.is_enabled() and "scaler" in metadata:
            self.scaler.load_state_dict(json.loads(metadata["scaler"]))
        rows = self._rows(json.loads(metadata["losses"]) if "losses" in metadata else WEIGHED_LOSSES)
        with torch.no_grad():
            self.objective.score_fit.copy_(state["score_fit"])
            for row, before in rows:
                self.objective.log_variances[row] = state["log_variances"][before]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith(OPTIMIZER):
                _, number, moment = name.split(".")
                moments.setdefault(int(number), {})[moment] = tensor
        self._fit_variances(moments, rows)
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})

    def _rows(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """For each loss its row among the learned weights, and its row among those of a checkpoint with these `names`."""
        return [(row, names.index(name)) for row, name in enumerate(self.objective.names) if name in names]

    def _fit_variances(self, moments: dict[int, dict[str, Tensor]], rows: Sequence[tuple[int, int]]) -> None:
        """Moments of the losses' variances in the present order of losses."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for number, weight in enumerate(weights):
            if weight is self.objective.log_variances and number in moments:
                order = [before for _, before in rows]
                moments[number] = {name: tensor[order] if tensor.ndim else tensor for name, tensor in moments[number].items()}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, under the rest of their names as they are today."""
    return {renamed_weight(name.removeprefix(prefix)): tensor for name, tensor in state.items() if name.startswith(prefix)}
