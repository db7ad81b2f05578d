"""What training minimises: pure functions of score matrices with images in rows and captions in columns.

`positives` is True where the caption is one of the image's. An image may have several captions in a batch; they are never each
other's negatives. Every caption belongs to exactly one image of the batch.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Scores = Float[Tensor, "images captions"]
Positives = Bool[Tensor, "images captions"]


def hinge_loss(scores: Scores, positives: Positives, margin: float = 0.2, hardest: bool = True) -> Float[Tensor, ""]:
    """Triplet hinge, added over all positives and both directions (spec, section 2).

    With `hardest`, each positive meets only its worst negative image and its worst negative caption (VSE++), otherwise all.
    A pair without negatives adds 0.
    """
    positive = scores.masked_fill(~positives, 0.0).sum(dim=0)  # one owner per caption
    negative = scores.masked_fill(positives, -torch.inf)
    image_violation = (margin + negative - positive[None]).relu()
    # An image's negatives, once for each of its captions.
    owner = positives.int().argmax(dim=0)
    caption_violation = (margin + negative[owner] - positive[:, None]).relu()
    if hardest:
        return image_violation.amax(dim=0).sum() + caption_violation.amax(dim=1).sum()
    return image_violation.sum() + caption_violation.sum()


def infonce_loss(scores: Scores, positives: Positives, scale: float | Tensor = 20.0) -> Float[Tensor, ""]:
    """Cross-entropy of the positive among all candidates at temperature 1 / `scale`, the mean of both directions.

    The other captions of an image are left out of its candidates, so that they are neither right nor wrong.
    """
    logits = scale * scores
    text_to_image = -_mean_where(positives, logits.log_softmax(dim=0))
    negatives = logits.masked_fill(positives, -torch.inf).logsumexp(dim=1, keepdim=True)
    image_to_text = _mean_where(positives, torch.logaddexp(logits, negatives) - logits)
    return 0.5 * (text_to_image + image_to_text)


def listnet_loss(
    student: Scores, teacher: Scores, student_scale: float | Tensor = 6.0, teacher_scale: float = 1.0
) -> Float[Tensor, ""]:
    """ListNet distillation (paper, equation of L_d): cross-entropy of the student's rankings under the teacher's.

    Top-one probabilities over captions for each image plus over images for each caption, each averaged over its lists. The
    teacher receives no gradient.
    """
    target = teacher_scale * teacher.detach()
    logits = student_scale * student
    losses = [-(target.softmax(dim=d) * logits.log_softmax(dim=d)).sum(dim=d).mean() for d in (0, 1)]
    return losses[0] + losses[1]


def listed_listnet_loss(
    student: Scores,
    teacher: Scores,
    listed: Bool[Tensor, "images captions"],
    student_scale: float | Tensor = 20.0,
    teacher_scale: float = 1.0,
) -> Float[Tensor, ""]:
    """`listnet_loss` on lists that hold only some candidates: those of the pairs that are `listed`.

    A list of one candidate, or of none, adds 0 and still counts in the mean.
    """
    # The lowest finite number, not -inf: a list of no candidate must not turn into NaN.
    lowest = torch.finfo(student.dtype).min
    target = (teacher_scale * teacher.detach()).masked_fill(~listed, lowest)
    logits = (student_scale * student).masked_fill(~listed, lowest)
    losses = []
    for d in (0, 1):
        likely = logits.log_softmax(dim=d).masked_fill(~listed, 0.0)
        losses.append(-(target.softmax(dim=d) * likely).sum(dim=d).mean())
    return losses[0] + losses[1]


def mse_loss(student: Scores, teacher: Scores, scale_and_shift: Float[Tensor, " 2"]) -> Float[Tensor, ""]:
    """Mean squared error of a * student + b to the teacher's raw score; `scale_and_shift` holds the learned a and b."""
    scale, shift = scale_and_shift[0], scale_and_shift[1]
    return (scale * student + shift - teacher.detach()).square().mean()


def ordinal_loss(
    student: Scores, teacher: Scores, margin: float = 0.2, threshold: float = 0.1, stride: int = 3
) -> Float[Tensor, ""]:
    """The student should rank as the teacher does, with a margin between items `stride` ranks apart (spec, section 3.3).

    Only pairs whose better item the teacher scores at least `threshold` count; both directions are added. Lists shorter
    than `stride` + 1 add 0.
    """
    return sum(
        (
            _ordinal_rows(s, teacher_side, margin, threshold, stride)
            for s, teacher_side in ((student, teacher.detach()), (student.T, teacher.detach().T))
        ),
        start=student.new_zeros(()),
    )


def contrastive_distillation_loss(
    student: Scores, teacher: Scores, positives: Positives, margin: float = 0.2
) -> Float[Tensor, ""]:
    """Triplet hinge on the student whose one negative for each positive is the teacher's hardest (spec, section 3.3).

    The original wrote into the teacher's matrix and took whole rows and columns as negatives; here each positive meets
    exactly one negative image and one negative caption, and neither matrix is touched.
    """
    hard = teacher.detach().masked_fill(positives, -torch.inf)
    owner = positives.int().argmax(dim=0)
    captions = torch.arange(student.shape[1], device=student.device)
    positive = student[owner, captions]
    negative_image = student[hard.argmax(dim=0), captions]
    negative_caption = student[owner, hard.argmax(dim=1)[owner]]
    image_violation = (margin + negative_image - positive).relu().masked_fill(positives.all(dim=0), 0.0)
    caption_violation = (margin + negative_caption - positive).relu().masked_fill(positives.all(dim=1)[owner], 0.0)
    return image_violation.sum() + caption_violation.sum()


def original_contrastive_loss(student: Scores, teacher: Scores, positives: Positives, margin: float = 0.2) -> Float[Tensor, ""]:
    """What the original computes under that name (spec, section 4.3, bug 7): some B times as much for B pairs.

    Each query's hardest negative, which the teacher chooses, is a negative of every query, the right answers among them. That
    the original also writes zeros into the teacher's matrix is left out. Each image has one caption, in the same order.
    """
    assert positives.shape[0] == positives.shape[1], "recipes that ask for it have one caption an image"
    diagonal = student.diagonal()
    hard = teacher.detach().masked_fill(positives, 0.0)
    image_violation = (margin + student[:, hard.argmax(dim=1)] - diagonal[:, None]).relu()
    caption_violation = (margin + student[hard.argmax(dim=0)] - diagonal[None]).relu()
    return image_violation.sum() + caption_violation.sum()


def order_scores(images: Float[Tensor, "images dim"], captions: Float[Tensor, "captions dim"]) -> Scores:
    """Minus how far each caption lies outside of each image's order (Vendrov et al. 2016): `measure = "order"`."""
    beyond = (captions[None] - images[:, None]).relu()
    # Not norm(), whose gradient at 0 is no number.
    return -(beyond.square().sum(dim=-1) + 1e-12).sqrt()


def pair_loss(scores: Float[Tensor, " pairs"], positives: Bool[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Cross-entropy of log odds, the mean over positives and others of the mean of each (OSCAR's image-text matching)."""
    signs = torch.where(positives, scores, -scores)
    losses = -torch.nn.functional.logsigmoid(signs)
    return 0.5 * (_mean_where(positives, losses) + _mean_where(~positives, losses))


def spread_loss(vectors: Float[Tensor, "items dim"]) -> Float[Tensor, ""]:
    """How crowded the vectors are: the mean of -log(n x distance to the nearest other one) (spec, section 3.3, "entropy").

    The original asks it of images and captions together. Equal vectors count as 1e-6 apart. A single vector adds 0.
    """
    if len(vectors) < 2:
        return vectors.new_zeros(())
    # Not cdist, whose gradient at distance 0, on the diagonal, is no number.
    similarity = (vectors.detach() @ vectors.detach().T).fill_diagonal_(-torch.inf)
    distance = (vectors - vectors[similarity.argmax(dim=1)]).norm(dim=1)
    loss: Tensor = -(len(vectors) * distance.clamp(min=1e-6)).log().mean()
    return loss


def activity(states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "1 2"]:
    """The sum of the absolute values of all real tokens' states, and the number of these tokens: what `activity_loss` adds."""
    sums = states.float().abs().sum(dim=-1)
    return torch.stack([sums.masked_fill(~mask, 0.0).sum(), mask.sum().to(sums.dtype)])[None]


def activity_loss(activities: Float[Tensor, "parts 2"]) -> Float[Tensor, ""]:
    """The sum of the absolute values of a state, the mean over real tokens (spec, section 3.3, "regularizehidden")."""
    sums = activities.sum(dim=0)
    return sums[0] / sums[1]


def weighed_losses(losses: Float[Tensor, " losses"], log_variances: Float[Tensor, " losses"]) -> Float[Tensor, " losses"]:
    """Losses that weigh themselves, by learned w: (exp(-w) loss + w) / 2 each (spec, section 3.4; Kendall et al. 2018)."""
    return 0.5 * ((-log_variances).exp() * losses + log_variances)


def _mean_where(chosen: Bool[Tensor, "..."], values: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The mean of the chosen values. Not by indexing, which waits for a GPU to know how many they are."""
    return values.masked_fill(~chosen, 0.0).sum() / chosen.sum()


def _ordinal_rows(
    student: Float[Tensor, "lists items"],
    teacher: Float[Tensor, "lists items"],
    margin: float,
    threshold: float,
    stride: int,
) -> Float[Tensor, ""]:
    ascending, order = teacher.sort(dim=1)
    ranked = student.gather(1, order)
    violation = (margin + ranked[:, :-stride] - ranked[:, stride:]).relu()
    counts = ascending[:, stride:] >= threshold
    return violation.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)
