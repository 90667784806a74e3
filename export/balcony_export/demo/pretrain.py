"""Pretrain the small Llama that is the base of the demo bundle.

Only the demo needs this: a user's base is pretrained already.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from balcony_edge.errors import DataError
from balcony_export.data import corpus
from balcony_export.progress import Progress
from balcony_export.training import resume

# Steps from one saved state to the next.
SAVE_EVERY = 25


@dataclass(frozen=True)
class PretrainConfig:
    """The sizes of the demo base and the settings of its training; lengths are in tokens."""

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 12
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 352
    context: int = 256
    steps: int = 2000
    rows: int = 16
    length: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0

    def model(self) -> LlamaForCausalLM:
        """The untrained model, with the initial weights that belong to ``seed``."""
        torch.manual_seed(self.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=self.vocabulary,
                hidden_size=self.hidden,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.kv_heads,
                head_dim=self.hidden // self.heads,
                intermediate_size=self.intermediate,
                max_position_embeddings=self.context,
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=0,
            )
        )


def pretrain(
    config: PretrainConfig, texts: list[Path], folder: Path, state_folder: Path, start: Path | None = None
) -> None:
    """Train a model on ``texts`` and write it to ``folder``, which has the tokenizer already.

    ``state_folder``: where the state to resume from is saved. ``start``: a model folder to go on from, with the sizes
    of ``config``. The weights are rounded to bfloat16 at the end, which halves the file; the rounded model *is* the
    base from then on, and the held-out loss is measured on it. Raises DataError if there is too little text.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    data = corpus.load(texts, tokenizer, end_id=tokenizer.eos_token_id)
    if len(data.train) < config.length or len(data.heldout) < config.context:
        raise DataError(
            f"{len(data.train)} training and {len(data.heldout)} held-out tokens are too few",
            f"give --data at least {config.length} and {config.context} tokens of text",
        )
    state_folder.mkdir(parents=True, exist_ok=True)
    model = config.model()
    if start:
        pretrained = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
        model.load_state_dict(pretrained.state_dict())
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
    first = _resume(state_folder, model, optimizer, config)
    model.train()
    forward = torch.compile(model) if shutil.which("g++") else model
    started = time.monotonic()
    with (
        Progress("pretrain", config.steps, first) as progress,
        (state_folder / "metrics.jsonl").open("a") as log,
    ):
        for step in range(first, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = trapezoid(step, config.steps, config.learning_rate)
            rows = torch.from_numpy(corpus.batch(data.train, step, config.rows, config.length, config.seed))
            loss = forward(input_ids=rows, labels=rows).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            progress.advance(f"loss {loss.item():.3f}")
            if (step + 1) % SAVE_EVERY == 0:
                line = {"step": step + 1, "loss": loss.item(), "elapsed_s": time.monotonic() - started}
                log.write(json.dumps(line) + "\n")
                log.flush()
                _save_state(state_folder, model, optimizer, step + 1, config)
    rounded: Any = model.bfloat16()
    rounded.save_pretrained(state_folder / "model")
    # The weights come last: a folder that has them is complete.
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (state_folder / "model" / name).replace(folder / name)
    loss = heldout_loss(rounded.float(), data.heldout, config.context)
    (state_folder / "heldout.json").write_text(json.dumps({"heldout_loss_nats": loss, **asdict(config)}) + "\n")
    print(f"held-out loss {loss:.4f} nats a token")


def heldout_loss(model: Any, stream: corpus.Tokens, length: int) -> float:
    """The mean next-token cross-entropy in nats over the whole stream, in rows of ``length`` tokens."""
    rows = torch.from_numpy(corpus.sequences(stream, length))
    model.eval()
    with torch.inference_mode():
        losses = [model(input_ids=part, labels=part).loss.item() * len(part) for part in torch.split(rows, 8)]
    return float(sum(losses) / len(rows))


def _save_state(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: int, config: PretrainConfig
) -> None:
    parameters = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    resume.save(folder / "state.safetensors", parameters, [optimizer], step, asdict(config))


def _resume(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, config: PretrainConfig) -> int:
    """Load the saved state if it has these settings; returns the step to go on from (0 without a state).

    The number of steps may differ, because the schedule does not depend on it before its decay.
    """
    path = folder / "state.safetensors"
    found = resume.read_config(path)
    same = found is not None and {**found, "steps": config.steps} == asdict(config)
    return resume.restore(path, model, [optimizer]) if same else 0


def trapezoid(step: int, total_steps: int, peak: float, warmup_steps: int = 30, decay_share: float = 0.4) -> float:
    """The learning rate of a step: a linear warm-up to ``peak``, then ``peak``, then a linear decay to 0.

    ``decay_share``: the share of the steps that decay. Before that, the rate does not depend on ``total_steps``, so the
    length of a run can still be changed.
    """
    decay_steps = max(1, round(total_steps * decay_share))
    return peak * min(1.0, (step + 1) / warmup_steps, (total_steps - step) / decay_steps)
