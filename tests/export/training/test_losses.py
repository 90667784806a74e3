"""Every loss is the textbook's, with the gradient that autograd finds, in chunks of any size."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from balcony_edge.errors import ModelError
from balcony_export.data.rows import NO_TARGET
from balcony_export.model.lm_head import LMHead
from balcony_export.training.chunked_loss import chunked_loss
from balcony_export.training.losses import LOSSES, TOP_K, Loss, top_k
from helpers.effort import examples

SHAPES = st.tuples(st.integers(1, 3), st.integers(2, 7), st.integers(2, 6), st.integers(2, 60))


def textbook(name: str, temperature: float, teacher: Tensor, exit: Tensor, tokens: Tensor) -> Tensor:
    """Mean loss of logits [rows, length, V], from definitions."""
    if name == "ce":
        return functional.cross_entropy(exit[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    p, q = (torch.softmax(logits / temperature, -1).flatten(0, 1) for logits in (teacher, exit))
    if name == "topk-kl":
        kept = p.topk(min(TOP_K, p.shape[-1]), -1)
        p = torch.zeros_like(p).scatter(-1, kept.indices, kept.values)
        p = p / p.sum(-1, keepdim=True)
    middle = (p + q) / 2

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum(-1).mean()

    value = {"kl": kl(p, q), "reverse-kl": kl(q, p), "js": (kl(p, middle) + kl(q, middle)) / 2, "topk-kl": kl(p, q)}
    return value[name] * temperature**2


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=examples(15))
@given(shape=SHAPES, chunk=st.integers(1, 30), seed=st.integers(0, 1000), temperature=st.sampled_from([1.0, 2.0, 0.5]))
def test_losses_and_gradients_are_the_textbooks(
    name: str, shape: tuple[int, int, int, int], chunk: int, seed: int, temperature: float
) -> None:
    rows, length, hidden, vocabulary = shape
    temperature = 1.0 if name == "ce" else temperature
    torch.manual_seed(seed)
    exit = torch.randn(rows, length, hidden, requires_grad=True)
    teacher = torch.randn(rows, length, hidden)
    head = LMHead(torch.randn(vocabulary, hidden))
    tokens = torch.randint(vocabulary, (rows, length))
    following = functional.pad(tokens[:, 1:], (0, 1), value=NO_TARGET)
    (value,), (gradient,) = chunked_loss([exit], teacher, head, Loss(name, temperature), following, chunk)
    expected = textbook(name, temperature, teacher @ head.weight.T, exit @ head.weight.T, tokens)
    (expected_gradient,) = torch.autograd.grad(expected, exit)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_top_k_keeps_the_likeliest_and_sums_to_one() -> None:
    log_p = torch.log_softmax(torch.randn(5, 3 * TOP_K), -1)
    p = top_k(log_p).exp()
    assert ((p > 0).sum(-1) == TOP_K).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(5))
    assert torch.equal(p.argmax(-1), log_p.argmax(-1))


@pytest.mark.parametrize(
    ("name", "temperature", "words"),
    [
        ("mse", 1.0, "no loss 'mse'"),
        ("kl", 0.0, "temperature of 0"),
        ("kl", math.nan, "temperature of nan"),
        ("ce", 2.0, "no temperature"),
    ],
)
def test_a_loss_that_there_is_not_is_refused(name: str, temperature: float, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        Loss(name, temperature)
    assert caught.value.hint
