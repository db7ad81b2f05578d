import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.training.losses import (
    activity,
    activity_loss,
    contrastive_distillation_loss,
    hinge_loss,
    infonce_loss,
    listed_listnet_loss,
    listnet_loss,
    mse_loss,
    order_scores,
    ordinal_loss,
    original_contrastive_loss,
    spread_loss,
    weighed_losses,
)
from tests import reference
from tests.strategies import ScoreBatch, score_batches

DISTILLATIONS = {
    "listnet": lambda b: listnet_loss(b.student, b.teacher),
    "listed listnet": lambda b: listed_listnet_loss(b.student, b.teacher, b.positives | (b.teacher > 0.0)),
    "mse": lambda b: mse_loss(b.student, b.teacher, torch.tensor([0.5, 0.5])),
    "ordinal": lambda b: ordinal_loss(b.student, b.teacher, stride=1),
    "contrastive": lambda b: contrastive_distillation_loss(b.student, b.teacher, b.positives),
}


@pytest.mark.parametrize("hardest", [True, False])
@given(batch=score_batches(), margin=st.floats(0.0, 0.5))
def test_hinge_adds_the_violations_of_its_definition(hardest: bool, batch: ScoreBatch, margin: float) -> None:
    expected = reference.hinge(batch.student.numpy(), batch.owners, margin, hardest)
    assert hinge_loss(batch.student, batch.positives, margin, hardest).item() == pytest.approx(expected, abs=1e-4)


@given(batch=score_batches(), scale=st.floats(1.0, 30.0))
def test_infonce_is_the_cross_entropy_of_its_definition(batch: ScoreBatch, scale: float) -> None:
    expected = reference.infonce(batch.student.double().numpy(), batch.owners, scale)
    assert infonce_loss(batch.student, batch.positives, scale).item() == pytest.approx(expected, abs=1e-3)


@given(batch=score_batches(), student_scale=st.floats(1.0, 10.0), teacher_scale=st.floats(1.0, 10.0))
def test_listnet_is_the_cross_entropy_of_top_one_probabilities(
    batch: ScoreBatch, student_scale: float, teacher_scale: float
) -> None:
    expected = reference.listnet(batch.student.numpy(), batch.teacher.numpy(), student_scale, teacher_scale)
    actual = listnet_loss(batch.student, batch.teacher, student_scale, teacher_scale)
    assert actual.item() == pytest.approx(expected, abs=1e-3)


@given(batch=score_batches(), stride=st.integers(1, 4), threshold=st.floats(-1.0, 1.0))
def test_ordinal_compares_ranks_a_stride_apart(batch: ScoreBatch, stride: int, threshold: float) -> None:
    expected = reference.ordinal(batch.student.numpy(), batch.teacher.numpy(), 0.2, threshold, stride)
    assert ordinal_loss(batch.student, batch.teacher, 0.2, threshold, stride).item() == pytest.approx(expected, abs=1e-5)


@given(batch=score_batches())
def test_contrastive_distillation_meets_the_teachers_one_hardest_negative(batch: ScoreBatch) -> None:
    expected = reference.contrastive(batch.student.numpy(), batch.teacher.numpy(), batch.owners, 0.2)
    actual = contrastive_distillation_loss(batch.student, batch.teacher, batch.positives, 0.2)
    assert actual.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", DISTILLATIONS)
@given(batch=score_batches())
def test_distillation_leaves_the_teacher_without_gradient_and_untouched(name: str, batch: ScoreBatch) -> None:
    teacher = batch.teacher.clone().requires_grad_()
    student = batch.student.clone().requires_grad_()
    loss = DISTILLATIONS[name](ScoreBatch(student, teacher, batch.owners))
    (loss + 0 * student.sum()).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())
    assert_close(teacher.detach(), batch.teacher)


@given(batch=score_batches())
def test_own_captions_of_an_image_are_never_negatives(batch: ScoreBatch) -> None:
    best_own = batch.student.masked_fill(batch.positives, 0.9)
    without_conflict = best_own.masked_fill(~batch.positives, -5.0)
    assert hinge_loss(without_conflict, batch.positives).item() == pytest.approx(0.0, abs=1e-5)
    assert infonce_loss(without_conflict, batch.positives, 20.0).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("loss", [hinge_loss, infonce_loss])
@given(batch=score_batches(), seed=st.integers(0, 99))
def test_the_order_of_a_batch_does_not_change_a_loss(loss, batch: ScoreBatch, seed: int) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(batch.student), generator=generator)
    columns = torch.randperm(len(batch.owners), generator=generator)
    shuffled = loss(batch.student[rows][:, columns], batch.positives[rows][:, columns])
    assert_close(shuffled, loss(batch.student, batch.positives), atol=1e-4, rtol=1e-5)


def test_listnet_is_least_when_the_student_ranks_as_the_teacher_does() -> None:
    teacher = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.8, 0.1]])
    agreeing = listnet_loss(teacher, teacher, 5.0, 5.0)
    assert agreeing < listnet_loss(-teacher, teacher, 5.0, 5.0)
    assert agreeing < listnet_loss(torch.zeros_like(teacher), teacher, 5.0, 5.0)


@given(count=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_spread_loss_minds_the_nearest_other_vector(count: int, seed: int) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=1)
    expected = 0.0
    for row in range(count):
        others = [float((vectors[row] - vectors[other]).norm()) for other in range(count) if other != row]
        expected -= math.log(count * max(min(others), 1e-6)) / count if others else 0.0
    assert spread_loss(vectors).item() == pytest.approx(expected, abs=1e-4)


def test_equal_vectors_have_a_finite_spread_loss_and_gradient() -> None:
    vectors = torch.nn.functional.normalize(torch.ones(3, 4), dim=1).requires_grad_()
    loss = spread_loss(vectors)
    loss.backward()
    assert torch.isfinite(loss)
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


def test_the_activity_loss_reads_real_tokens_only() -> None:
    states = torch.tensor([[[1.0, -3.0], [9.0, 9.0]], [[0.0, 2.0], [-2.0, 0.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    assert activity_loss(activity(states, mask)).item() == pytest.approx((1 + 3 + 0 + 2 + 2 + 0) / 3)


@given(count=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_originals_contrastive_distillation_meets_every_querys_hardest_negative(count: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.rand(count, count, generator=random) for _ in range(2))
    shown = teacher.clone().fill_diagonal_(0.0)
    expected = 0.0
    for one in range(count):
        caption, image = int(shown[one].argmax()), int(shown[:, one].argmax())
        for other in range(count):
            expected += max(0.0, 0.2 + float(student[other, caption] - student[other, other]))
            expected += max(0.0, 0.2 + float(student[image, other] - student[other, other]))
    found = original_contrastive_loss(student, teacher, torch.eye(count, dtype=torch.bool), 0.2)
    assert found.item() == pytest.approx(expected, abs=1e-4)


@given(images=st.integers(1, 5), captions=st.integers(1, 5), seed=st.integers(0, 99))
def test_order_scores_say_how_far_a_caption_lies_beyond_an_image(images: int, captions: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    pictures, texts = torch.randn(images, 4, generator=random), torch.randn(captions, 4, generator=random)
    found = order_scores(pictures, texts)
    for row in range(images):
        for column in range(captions):
            beyond = [max(0.0, float(t - p)) ** 2 for p, t in zip(pictures[row], texts[column], strict=True)]
            assert found[row, column].item() == pytest.approx(-math.sqrt(sum(beyond)), abs=1e-5)


def test_a_loss_that_weighs_itself_is_least_where_its_weight_is_its_logarithm() -> None:
    losses = torch.tensor([0.5, 4.0])
    best = weighed_losses(losses, losses.log())
    assert best.tolist() == pytest.approx((0.5 * (1 + losses.log())).tolist())
    for change in (-0.1, 0.1):
        assert (weighed_losses(losses, losses.log() + change) > best).all()
