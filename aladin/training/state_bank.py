"""The states of a transformer that does not learn, computed once for a whole training set."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aladin.network.caption_blocks import caption_blocks
from aladin.network.model import Aladin
from aladin.network.run import CPU, Run
from aladin.network.tensors import Tokens
from aladin.progress import SILENT, Progress
from aladin.training.batches import Part
from aladin.training.learning_set import LearningSet

BATCH = 64  # images read at once, and twice as many captions


@dataclass(frozen=True)
class StateBank:
    """The frozen backbone's states of a whole training set, read once: the teacher then costs nothing.

    It is deterministic, without dropout (a departure from the original, whose frozen teacher has some), but with `kept_regions`
    it scores each image by the regions that the student reads at that step, so not the same at every step.
    """

    image_states: Float[Tensor, "views images tokens dim"]
    caption_states: Float[Tensor, "captions words dim"]
    caption_mask: Bool[Tensor, "captions words"]
    run: Run

    @classmethod
    @torch.no_grad()
    def build(cls, model: Aladin, data: LearningSet, run: Run, progress: Progress = SILENT) -> "StateBank":
        """The states of every view of every image and of every caption, in bfloat16 to halve the memory."""
        model.eval()
        assert model.backbone.regions is not None, "states are only kept where every image has as many"
        views, images = data.images.views, len(data.images)
        tokens, dim = 1 + model.backbone.regions, model.state_dim
        image_states = torch.empty(views, images, tokens, dim, dtype=torch.bfloat16)
        caption_states = torch.zeros(*data.pieces.ids.shape, dim, dtype=torch.bfloat16)
        total = views * images + len(caption_states)
        with run.context():
            for view in range(views):
                for start in range(0, images, BATCH):
                    rows = np.arange(start, min(start + BATCH, images))
                    states = model.image_states(model.backbone.batch(data.images, rows, view)).states
                    image_states[view, start : start + BATCH] = states.to(CPU, torch.bfloat16)
                    progress(view * images + start + len(rows), total)
            done = views * images
            for block in caption_blocks(data.pieces, 2 * BATCH):
                states = model.caption_states(run.put(block.ids), run.put(block.mask)).states
                caption_states[block.rows, : block.ids.shape[1]] = states.to(CPU, torch.bfloat16)
                done += len(block.rows)
                progress(done, total)
        return cls(image_states, caption_states, torch.from_numpy(data.pieces.mask), run)

    def images(self, part: Part) -> Tokens:
        step, rows = part.step, part.images
        states = self.image_states[torch.from_numpy(step.views[rows]), torch.from_numpy(step.images[rows])].float()
        if step.keep is not None:
            keep = step.keep[rows]
            every = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], dim=1)
            states = states.gather(1, every[:, :, None].expand(-1, -1, states.shape[-1]))
        return self.run.put(Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool)))

    def captions(self, part: Part) -> Tokens:
        width = int(self.caption_mask[torch.from_numpy(part.step.captions)].sum(dim=1).max())
        rows = torch.from_numpy(part.step.captions[part.captions])
        mask = self.caption_mask[rows]
        return self.run.put(Tokens(self.caption_states[rows, :width].float(), mask[:, :width]))
