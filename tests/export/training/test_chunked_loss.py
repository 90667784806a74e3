"""The chunked KL is the plain KL: value and gradients, for any shape and chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from balcony_export.data.rows import NO_TARGET
from balcony_export.model.lm_head import LMHead
from balcony_export.training import chunked_loss as chunking
from balcony_export.training.chunked_loss import (
    chunk_positions,
    chunked_loss,
    likeliest_tokens,
    mean_kl,
    predictions,
)
from helpers.effort import examples

# Caps low enough to bend: the logits are some units wide.
TWISTS = st.sampled_from([{}, {"divisor": 3.0}, {"softcap": 4.0}, {"divisor": 0.5, "softcap": 2.0}])
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(2, 8), st.integers(2, 40))


def tensors(shape: tuple[int, int, int, int], seed: int, exits: int = 2) -> tuple[list[torch.Tensor], ...]:
    rows, length, hidden, vocabulary = shape
    torch.manual_seed(seed)
    students = [torch.randn(rows, length, hidden, requires_grad=True) for _ in range(exits)]
    return students, [torch.randn(rows, length, hidden)], [torch.randn(vocabulary, hidden)]


def textbook_logits(normed: torch.Tensor, head: LMHead) -> torch.Tensor:
    """As Granite and Gemma 2 have them in transformers."""
    logits = normed @ head.weight.T / head.divisor
    return torch.tanh(logits / head.softcap) * head.softcap if head.softcap else logits


def plain_kl(exit: torch.Tensor, teacher: torch.Tensor, head: LMHead) -> torch.Tensor:
    """As in the textbook: all logits at once, gradients by autograd."""
    p = torch.log_softmax(textbook_logits(teacher, head), -1).flatten(0, 1)
    q = torch.log_softmax(textbook_logits(exit, head), -1).flatten(0, 1)
    return functional.kl_div(q, p, reduction="batchmean", log_target=True)


@settings(max_examples=examples(40))
@given(shape=SHAPES, chunk=st.integers(1, 40), seed=st.integers(0, 1000), twists=TWISTS)
def test_chunked_loss_is_the_plain_kl_with_its_gradients(
    shape: tuple[int, int, int, int], chunk: int, seed: int, twists: dict[str, float]
) -> None:
    exits, (teacher,), (weight,) = tensors(shape, seed)
    head = LMHead(weight, **twists)
    losses, gradients = chunked_loss(exits, teacher, head, chunk=chunk)
    measured = [kl for kl, _ in mean_kl(exits, teacher, head, chunk=chunk)]
    assert measured == pytest.approx([loss.item() for loss in losses], rel=1e-5, abs=1e-6)
    for exit, loss, gradient in zip(exits, losses, gradients, strict=True):
        expected = plain_kl(exit, teacher, head)
        (expected_gradient,) = torch.autograd.grad(expected, exit)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-6)


def test_gradients_reach_what_lies_before_the_norm() -> None:
    (exit, _), (teacher,), (matrix,) = tensors((2, 5, 6, 11), seed=3)
    head = LMHead(matrix)
    weight = torch.randn(6, 6, requires_grad=True)
    _, gradients = chunked_loss([exit @ weight], teacher, head, chunk=3)
    torch.autograd.backward([exit @ weight], gradients)
    (expected,) = torch.autograd.grad(plain_kl(exit @ weight, teacher, head), weight)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_an_exit_that_equals_the_teacher_loses_nothing() -> None:
    _, (teacher,), (weight,) = tensors((2, 5, 6, 11), seed=0)
    (loss,), (gradient,) = chunked_loss([teacher], teacher, LMHead(weight))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max().item() < 1e-7


@settings(max_examples=examples(20))
@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_predictions_are_the_most_likely_tokens(shape: tuple[int, int, int, int], seed: int) -> None:
    _, (teacher,), (weight,) = tensors(shape, seed)
    assert torch.equal(likeliest_tokens(teacher, LMHead(weight)), (teacher @ weight.T).argmax(-1))


@settings(max_examples=examples(20))
@given(shape=SHAPES, seed=st.integers(0, 1000), twists=TWISTS)
def test_one_comparison_is_all_that_could_be_asked_by_itself(
    shape: tuple[int, int, int, int], seed: int, twists: dict[str, float]
) -> None:
    exits, (teacher,), (weight,) = tensors(shape, seed)
    head = LMHead(weight, **twists)
    ids = torch.randint(weight.shape[0], shape[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "chunk_positions", lambda head: 4)
        found = chunking.compare(exits, teacher, head, functional.pad(ids[:, 1:], (0, 1), value=NO_TARGET))
    assert torch.equal(found.full, likeliest_tokens(teacher, head))
    divergences = mean_kl(exits, teacher, head)
    assert found.kl_nats == pytest.approx([kl for kl, _ in divergences], rel=1e-5, abs=1e-6)
    same = [(said.token == found.full).double().mean().item() for said in found.exits]
    assert [agreement for _, agreement in divergences] == pytest.approx(same)
    for exit, said in zip(exits, found.exits, strict=True):
        for value, expected in zip(said, predictions(exit, head), strict=True):
            torch.testing.assert_close(value, expected)
    plain = functional.cross_entropy(
        textbook_logits(teacher, head)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    assert found.loss_nats == pytest.approx(plain.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("vocabulary", "device", "positions"),
    [(4096, "cpu", 1024), (128_256, "cpu", 72), (128_256, "meta", 130), (1 << 30, "meta", 1)],
)
def test_a_chunk_holds_16_mib_of_logits_on_a_cpu_and_64_elsewhere(vocabulary: int, device: str, positions: int) -> None:
    assert chunk_positions(LMHead(torch.empty(vocabulary, 0, device=device))) == positions
