import dataclasses
from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from aladin.encoder.word_pieces import Pieces
from aladin.network.caption_blocks import caption_blocks
from aladin.training.batches import Plan, Step, without_some_words
from tests.tiny_learning import few_examples


@st.composite
def plans(draw: st.DrawFn) -> dict[str, object]:
    """Settings of a plan for 2 to 12 images with 1 to 5 captions each."""
    counts = draw(st.lists(st.integers(1, 5), min_size=2, max_size=12))
    regions = draw(st.integers(1, 9))
    return {
        "owners": np.repeat(np.arange(len(counts)), counts),
        "batch_images": draw(st.integers(2, 14)),
        "captions_per_image": draw(st.integers(1, 6)),
        "views": draw(st.integers(1, 4)),
        "regions": regions,
        "kept_regions": draw(st.integers(1, regions)),
        "seed": draw(st.integers(0, 999)),
    }


def epoch(plan: Plan, number: int) -> list[Step]:
    return list(plan.steps(number * plan.steps_per_epoch, (number + 1) * plan.steps_per_epoch))


def same(one: Step, other: Step) -> bool:
    arrays = ("images", "views", "captions")
    keeps = [step.keep.tolist() if step.keep is not None else None for step in (one, other)]
    return (
        (one.number, one.epoch) == (other.number, other.epoch)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and torch.equal(one.positives, other.positives)
        and keeps[0] == keeps[1]
    )


@few_examples
@given(settings=plans(), number=st.integers(0, 3))
def test_an_epoch_reads_each_image_once_but_for_a_single_one_left_over(settings: dict[str, object], number: int) -> None:
    plan = Plan(**settings)  # type: ignore[arg-type]
    read = Counter(image for step in epoch(plan, number) for image in step.images.tolist())
    left_over = plan.images % plan.batch_images == 1
    assert set(read.values()) == {1}
    assert set(read) <= set(range(plan.images))
    assert len(read) == plan.images - left_over


@few_examples
@given(settings=plans(), number=st.integers(0, 3), count=st.integers(1, 4))
def test_with_folds_a_step_reads_one_and_an_epoch_each_image_once_but_for_single_ones_left_over(
    settings: dict[str, object], number: int, count: int
) -> None:
    plan = Plan(**settings)  # type: ignore[arg-type]
    plan = dataclasses.replace(plan, folds=np.arange(plan.images) % count)
    steps = epoch(plan, number)
    assert len(steps) == plan.steps_per_epoch
    assert all(len(set((step.images % count).tolist())) == 1 for step in steps)
    read = Counter(image for step in steps for image in step.images.tolist())
    assert set(read.values()) <= {1}
    sizes = [len(range(fold, plan.images, count)) for fold in range(count)]
    assert len(read) == plan.images - sum(size % plan.batch_images == 1 for size in sizes)
    late = list(plan.steps(number * plan.steps_per_epoch + len(steps) // 2, (number + 1) * plan.steps_per_epoch))
    assert all(same(one, other) for one, other in zip(steps[len(steps) // 2 :], late, strict=True))


@few_examples
@given(settings=plans(), number=st.integers(0, 3), folds=st.integers(1, 3))
def test_where_each_caption_is_read_an_epoch_reads_the_first_five_of_every_image_once_beside_it(
    settings: dict[str, object], number: int, folds: int
) -> None:
    plan = dataclasses.replace(Plan(**settings), captions_per_image=1, each=True)  # type: ignore[arg-type]
    plan = dataclasses.replace(plan, owners=np.sort(np.concatenate([plan.owners, plan.owners])))  # up to ten captions
    plan = plan if folds == 1 else dataclasses.replace(plan, folds=np.arange(plan.images) % folds)
    steps = epoch(plan, number)
    assert len(steps) == plan.steps_per_epoch
    first = [row for image in range(plan.images) for row in np.flatnonzero(plan.owners == image)[:5].tolist()]
    read = Counter(row for step in steps for row in step.captions.tolist())
    parts = [first] if folds == 1 else [[row for row in first if plan.owners[row] % folds == fold] for fold in range(folds)]
    assert set(read.values()) <= {1}
    assert set(read) <= set(first)
    assert len(read) == sum(len(part) - (len(part) % plan.batch_images == 1) for part in parts)
    for step in steps:
        assert np.array_equal(step.images, plan.owners[step.captions])
        assert torch.equal(step.positives, torch.eye(len(step.images), dtype=torch.bool))
    late = list(plan.steps(number * plan.steps_per_epoch + len(steps) // 2, (number + 1) * plan.steps_per_epoch))
    assert all(same(one, other) for one, other in zip(steps[len(steps) // 2 :], late, strict=True))


@few_examples
@given(settings=plans())
def test_every_step_has_negatives(settings: dict[str, object]) -> None:
    plan = Plan(**settings)  # type: ignore[arg-type]
    assert all(2 <= len(step.images) <= plan.batch_images for step in epoch(plan, 0))


@few_examples
@given(settings=plans(), data=st.data())
def test_steps_are_the_same_whether_or_not_earlier_ones_were_drawn(settings: dict[str, object], data: st.DataObject) -> None:
    plan = Plan(**settings)  # type: ignore[arg-type]
    total = 3 * plan.steps_per_epoch
    start = data.draw(st.integers(0, total - 1))
    whole, late = list(plan.steps(0, total)), list(plan.steps(start, total))
    assert [step.number for step in whole] == list(range(total))
    assert len(late) == total - start
    assert all(same(one, other) for one, other in zip(whole[start:], late, strict=True))


@few_examples
@given(settings=plans())
def test_every_image_brings_captions_of_its_own(settings: dict[str, object]) -> None:
    plan = Plan(**settings)  # type: ignore[arg-type]
    for step in epoch(plan, 1):
        assert len(set(step.captions.tolist())) == len(step.captions)
        assert torch.equal(step.positives, torch.from_numpy(step.images[:, None] == plan.owners[step.captions][None]))
        assert step.positives.sum(dim=0).tolist() == [1] * len(step.captions)
        counts = [min(plan.captions_per_image, int((plan.owners == image).sum())) for image in step.images]
        assert step.positives.sum(dim=1).tolist() == counts


@few_examples
@given(settings=plans())
def test_kept_regions_are_distinct_and_in_reading_order(settings: dict[str, object]) -> None:
    plan = Plan(**settings)  # type: ignore[arg-type]
    for step in epoch(plan, 0):
        assert (step.keep is None) == (plan.kept_regions == plan.regions)
        if step.keep is not None:
            assert step.keep.shape == (len(step.images), plan.kept_regions)
            assert step.keep.min() >= 0
            assert step.keep.max() < plan.regions
            assert bool((step.keep.diff(dim=1) > 0).all())


def test_epochs_and_seeds_differ_in_everything_that_is_drawn() -> None:
    def drawn(seed: int, number: int) -> list[str]:
        owners = np.repeat(np.arange(20), 5)
        step = next(iter(epoch(Plan(owners, 20, 2, 4, 49, 25, seed), number)))
        assert step.keep is not None
        places = np.argsort(step.images)  # the same images, in the same order
        return [
            str(step.images.tolist()),
            str(step.views[places].tolist()),
            str(sorted(step.captions.tolist())),
            str(step.keep[torch.from_numpy(places)].tolist()),
        ]

    one = drawn(0, 0)
    for other in (drawn(0, 1), drawn(1, 0)):
        assert all(ours != theirs for ours, theirs in zip(one, other, strict=True))


def test_every_caption_and_every_view_has_its_turn() -> None:
    plan = Plan(np.repeat(np.arange(4), 5), 4, 2, 3, 4, 4, seed=0)
    steps = list(plan.steps(0, 40))
    assert {caption for step in steps for caption in step.captions.tolist()} == set(range(20))
    assert {view for step in steps for view in step.views.tolist()} == {0, 1, 2}


@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=20), size=st.integers(1, 8), extra=st.integers(0, 3))
def test_caption_blocks_hold_every_caption_once_and_no_needless_padding(lengths: list[int], size: int, extra: int) -> None:
    mask = np.arange(max(lengths) + extra)[None] < np.array(lengths)[:, None]
    ids = np.where(mask, 1 + np.arange(mask.size).reshape(mask.shape), 0)
    seen: list[int] = []
    widths: list[int] = []
    for block in caption_blocks(Pieces(ids, mask, (False,) * len(lengths), ((),) * len(lengths)), size):
        assert 1 <= len(block.rows) <= size
        width = max(lengths[row] for row in block.rows)
        assert block.ids.shape == block.mask.shape == (len(block.rows), width)
        assert np.array_equal(block.ids.numpy(), ids[block.rows.numpy(), :width])
        assert np.array_equal(block.mask.numpy(), mask[block.rows.numpy(), :width])
        seen += block.rows.tolist()
        widths.append(width)
    assert sorted(seen) == list(range(len(lengths)))
    assert widths == sorted(widths)


@given(st.lists(st.integers(2, 12), min_size=1, max_size=8), st.sampled_from([0.0, 0.3, 0.9]), st.integers(0, 100))
def test_dropped_words_leave_captions_in_order_with_their_first_and_last_piece(
    lengths: list[int], share: float, seed: int
) -> None:
    mask = np.arange(14) < np.array(lengths)[:, None]
    ids = np.where(mask, np.arange(1, 15), 0)
    shorter, real = without_some_words(ids, mask, share, np.random.default_rng(seed))
    for before, after, left, length in zip(ids, shorter, real, lengths, strict=True):
        kept = after[left].tolist()
        assert kept == sorted(set(kept))
        assert set(kept) <= set(before[:length].tolist())
        assert kept[0] == 1
        assert kept[-1] == length
        assert (after[~left] == 0).all()
        assert left[: len(kept)].all()
    if share == 0:
        assert (shorter == ids).all()
        assert (real == mask).all()


def test_about_the_share_asked_for_is_dropped() -> None:
    mask = np.ones((200, 52), dtype=bool)
    _, real = without_some_words(np.ones((200, 52), dtype=np.int64), mask, 0.2, np.random.default_rng(0))
    assert abs(real.sum() / 200 - (2 + 50 * 0.8)) < 0.5


@st.composite
def sharded_plans(draw: st.DrawFn) -> Plan:
    """Images in shards of any sizes, in any order."""
    plan = Plan(**draw(plans()))
    shards = np.array(draw(st.lists(st.integers(0, 5), min_size=plan.images, max_size=plan.images)))
    each = draw(st.booleans())
    return dataclasses.replace(
        plan, shards=shards, window_shards=draw(st.integers(1, 4)), each=each, captions_per_image=1 if each else 2
    )


@few_examples
@given(plan=sharded_plans(), number=st.integers(0, 3))
def test_by_shards_an_epoch_reads_the_same_in_as_many_steps_as_otherwise(plan: Plan, number: int) -> None:
    otherwise = dataclasses.replace(plan, shards=None)
    steps, others = epoch(plan, number), epoch(otherwise, number)
    assert [len(step.images) for step in steps] == [len(step.images) for step in others]
    read = Counter(row for step in steps for row in (step.captions if plan.each else step.images).tolist())
    assert set(read.values()) <= {1}
    assert sum(read.values()) == sum(len(step.images) for step in others)


@few_examples
@given(plan=sharded_plans(), number=st.integers(0, 3))
def test_by_shards_no_more_are_read_together_than_the_window_holds(plan: Plan, number: int) -> None:
    assert plan.shards is not None
    read = np.concatenate([plan.shards[step.images] for step in epoch(plan, number)])
    places = {shard: np.flatnonzero(read == shard) for shard in set(read.tolist())}
    open_shards = [sum(found[0] <= place <= found[-1] for found in places.values()) for place in range(len(read))]
    assert max(open_shards) <= plan.window_shards
    for step in epoch(plan, number):  # one that reads the end of a window and the beginning of others, if they are small
        if len(step.images) <= min(map(len, places.values())):
            assert len(set(plan.shards[step.images].tolist())) <= 2 * plan.window_shards


@few_examples
@given(plan=sharded_plans(), number=st.integers(0, 3), data=st.data())
def test_by_shards_steps_are_the_same_whether_or_not_earlier_ones_were_drawn(
    plan: Plan, number: int, data: st.DataObject
) -> None:
    steps = epoch(plan, number)
    start = data.draw(st.integers(0, len(steps) - 1)) if steps else 0
    begin = number * plan.steps_per_epoch
    late = list(plan.steps(begin + start, begin + len(steps)))
    assert all(same(one, other) for one, other in zip(steps[start:], late, strict=True))


@few_examples
@given(plan=sharded_plans(), number=st.integers(0, 3), count=st.integers(2, 3))
def test_by_shards_and_folds_a_step_reads_one_fold_and_steps_go_from_window_to_window(
    plan: Plan, number: int, count: int
) -> None:
    plan = dataclasses.replace(plan, folds=np.arange(plan.images) % count)
    steps = epoch(plan, number)
    assert len(steps) == plan.steps_per_epoch
    assert all(len(set((step.images % count).tolist())) == 1 for step in steps)


def test_shards_come_in_another_order_in_every_epoch_and_their_images_too() -> None:
    plan = Plan(np.arange(600), 20, 1, 1, 1, 1, 7, shards=np.arange(600) // 100, window_shards=2)
    orders = [np.concatenate([step.images for step in epoch(plan, number)]) for number in range(3)]
    windows = [[sorted(set((order[start : start + 200] // 100).tolist())) for start in (0, 200, 400)] for order in orders]
    assert all(sorted(shard for window in found for shard in window) == list(range(6)) for found in windows)
    assert len({str(found) for found in windows}) > 1
    one, other = (order[:100] // 100 for order in orders[:2])
    assert min(np.bincount(one).max(), np.bincount(other).max()) < 70  # shards of a window are mixed
    assert not np.array_equal(orders[0], orders[1])
