"""Finds out by the clock which lossless policy is the fastest here: plain full depth, or rounds through some exit.

Profiled costs say which one to begin with. They can be wrong: the device may have been busy while stages were profiled,
and they leave out what our own code takes for a round's many graph calls. So policies are tried against each other, in
blocks of tokens that alternate, so that both meet the same device and context.

Short trials are enough, because the time of a token is a product of two factors:

- *profiled milliseconds per token* depend on the text (how many drafts are right), not on the device. They are known
  without a clock, and are remembered for long.
- *measured over profiled milliseconds* depend on the device and hardly on the text. A few steps tell them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import median

Key = tuple[int, ...]


class SpeedTrials:
    """Decides between lossless policies, named by their depths, from the steps that they have taken.

    ``predicted``: profiled milliseconds per token of each policy. The first one must be plain full depth.
    ``owed_ms``: a function that tells what catching up a policy's stages would take now, in profiled milliseconds.
    ``best``: the fastest policy as far as is known. ``limit_ms``: nothing that seems to take more, in profiled
    milliseconds per token, is tried.
    """

    # Rounds are left when they take more than LEAVE times the time of plain full depth. Another policy is taken when it
    # takes less than TAKE times the time of the best one.
    LEAVE, TAKE = 1.01, 0.97
    # A trial has BLOCKS blocks of BLOCK_TOKENS tokens of each policy, in turn.
    BLOCK_TOKENS = 10
    BLOCKS = 4
    # It ends early when the difference exceeds CLEAR standard errors, or when the policy tried has cost the time of
    # MOST_EXCESS_TOKENS tokens more than the best one would have.
    CLEAR = 2.5
    MOST_EXCESS_TOKENS = 4.0
    # Nothing is concluded before each policy has taken so many steps.
    LEAST_STEPS = 3
    # A policy that lost is tried again after so many tokens, and after twice as many each time that it clearly loses.
    FIRST_WAIT, LAST_WAIT = 512, 4096
    # Tokens between two trials, whichever policies they try.
    GAP_TOKENS = 128
    # After so many tokens it is reconsidered whether the best policy still is, and whether a trial is due.
    REVIEW_TOKENS = 8
    # The share of all time that trials may cost. A credit, in tokens' time, keeps count: it is at most MOST_CHARGED,
    # and no trial takes more than that from it.
    SHARE = 0.005
    MOST_CHARGED = 32.0
    # A trial may begin if catching up its policy's stages takes the time of at most so many tokens beyond the credit.
    CHEAP_ENTRY = 1.0
    # Plain full depth, or else the most promising rounds, may be tried whatever they seem to take (up to ``limit_ms``).
    # Others must seem to take at most so many times the time of the best policy.
    WORTH_TRYING = 1.05
    # All policies are tried anew when the logarithm of measured over profiled time has moved by SHIFT. It is followed
    # with a memory of SHIFT_TOKENS.
    SHIFT = 0.2
    SHIFT_TOKENS = 64.0
    # A ratio of measured to profiled time beyond this, either way, is an error of the clock.
    MOST_RATIO = 1e6

    def __init__(self, predicted: Mapping[Key, float], owed_ms: Callable[[Key], float] = lambda key: 0.0) -> None:
        self._owed_ms = owed_ms
        self._speeds = {key: _Speed(cost_ms) for key, cost_ms in predicted.items()}
        self._plain = next(iter(predicted))
        self.best = min(predicted, key=predicted.__getitem__)
        self.limit_ms = math.inf
        self._trial: _Trial | None = None
        self._last: Key | None = None
        self._tokens = self._next = self._review_at = 0
        self._credit = 0.0
        self._level = self._level_then = 0.0
        self._level_tokens = 0.0

    @property
    def now(self) -> Key:
        """The policy that the next step should use: the best one, or another while that is tried."""
        return self.best if self._trial is None else self._trial.turn

    def cost_ms(self, key: Key) -> float:
        """Milliseconds per token of a policy, on the scale of plain full depth's profiled milliseconds.

        Multiplied by plain full depth's slow-down they are milliseconds by the clock.
        """
        speed = self._speeds[key]
        return speed.profiled_ms * speed.factor

    def factor(self, key: Key, seen_from: Key | None = None) -> float:
        """Measured over profiled time of a policy, relative to that of plain full depth or of ``seen_from``."""
        seen = 1.0 if seen_from is None else self._speeds[seen_from].factor
        return self._speeds[key].factor / seen

    def interrupt(self) -> None:
        """A policy that is not lossless comes between: the trial in progress is given up."""
        self._trial = None
        self._last = None

    def spent(self, key: Key, elapsed_ms: float, profiled_ms: float, accrued_ms: float, tokens: int) -> None:
        """A step of the policy ``key``, not a reply's first, has emitted ``tokens``. Impossible values are ignored.

        ``elapsed_ms``: by the clock. ``profiled_ms``: its graph runs by the profile. ``accrued_ms``: the same plus the
        catching up that it has left to later steps, minus what it has caught up for earlier ones.
        """
        if len(self._speeds) == 1 or tokens <= 0:
            return
        if not (0.0 < profiled_ms < math.inf and math.isfinite(accrued_ms)):
            return
        if not 1.0 / self.MOST_RATIO < elapsed_ms / profiled_ms < self.MOST_RATIO:
            return
        self._tokens += tokens
        self._credit = min(self._credit + self.SHARE * tokens, self.MOST_CHARGED)
        self._speeds[key].learn(accrued_ms, tokens)
        # The first step after a change also catches up what the other policy has left.
        steady, self._last = key == self._last, key
        trial = self._trial
        if trial is not None:
            if key == trial.turn:
                trial.add(elapsed_ms, profiled_ms, tokens, steady)
                self._conclude(trial)
            return
        if key != self.best:
            return
        if steady:
            self._watch_level(elapsed_ms / profiled_ms, tokens)
        if self._tokens >= self._review_at:
            self._review_at = self._tokens + self.REVIEW_TOKENS
            if key != self._plain and self.cost_ms(key) > self.LEAVE * self.cost_ms(self._plain):
                self._switch(self._plain)
            elif self._tokens >= self._next and self._credit >= 0.0:
                self._begin_trial()

    # --- trials ---

    def _begin_trial(self) -> None:
        """Begin a trial of a policy that is due, if there is one."""
        tokens, speeds = self._tokens, self._speeds
        others = [key for key in speeds if key != self.best]
        due = [key for key in others if speeds[key].due <= tokens]
        if not due:
            self._next = min(speeds[key].due for key in others)
            return
        # Plain full depth first: lossless decoding must never be slower than that.
        others.sort(key=lambda key: (key != self._plain, self.cost_ms(key)))
        usual_ms = self.cost_ms(self.best)
        for key in others:
            most_ms = self.limit_ms if key == others[0] else min(self.limit_ms, self.WORTH_TRYING * usual_ms)
            if key in due and self.cost_ms(key) <= most_ms and self._is_near(key, usual_ms):
                self._trial = _Trial(self.best, key, self.BLOCK_TOKENS)
                return

    def _is_near(self, key: Key, usual_ms: float) -> bool:
        """Whether catching up the stages of a policy is cheap, or the credit pays for it."""
        entry_ms = self._owed_ms(key) * self._speeds[key].factor - self._owed_ms(self.best)
        return entry_ms <= (self.CHEAP_ENTRY + self._credit) * usual_ms

    def _conclude(self, trial: _Trial) -> None:
        """End the trial if it has told enough or costs too much; otherwise change turns where a block is over."""
        ours, theirs = trial.ours, trial.theirs
        block_over = trial.block_over()
        tried = trial.turn == trial.challenger
        # It is decided at each block's end and, so that what is clearly slower ends soon, at each third step tried.
        is_due = block_over or (tried and len(theirs.steps) % self.LEAST_STEPS == 0)
        if is_due and min(len(ours.steps), len(theirs.steps)) >= self.LEAST_STEPS:
            (our, our_variance), (their, their_variance) = ours.found(), theirs.found()
            found, variance = their - our, our_variance + their_variance
            mine, other = self._speeds[trial.best], self._speeds[trial.challenger]
            slower = found + math.log(other.profiled_ms / mine.profiled_ms)
            # The text alone makes some difference by chance; for a policy that is seldom used, that is uncertain too.
            clear = abs(slower) > self.CLEAR * math.sqrt(variance + self._text_variance(trial.challenger))
            too_costly = tried and theirs.tokens * math.expm1(min(slower, 9.0)) > self.MOST_EXCESS_TOKENS
            # To win, a policy must have been tried before and after a block of the other: the device may have changed.
            clear = clear and (slower > 0.0 or trial.blocks > 2)
            if too_costly or (block_over and (clear or trial.blocks >= 2 * self.BLOCKS)):
                self._end_trial(trial, found, variance, lost=(clear or too_costly) and slower > 0.0)
                return
        if block_over:
            trial.turn = trial.best if tried else trial.challenger

    def _text_variance(self, key: Key) -> float:
        """Variance of the logarithm of profiled milliseconds per token, which depend on how many drafts are right."""
        return 0.0 if key == self._plain else 0.4 / self._speeds[key].tokens

    def _end_trial(self, trial: _Trial, found: float, variance: float, lost: bool) -> None:
        """Learn from a trial that is over, and switch to the challenger if it is faster.

        ``found``: the logarithm of the challenger's measured over profiled time, minus that of the best policy;
        ``variance`` is its variance. ``lost``: the challenger has clearly lost.
        """
        self._trial = None
        speeds, best, challenger = self._speeds, trial.best, trial.challenger
        self._credit -= min(self.MOST_CHARGED, trial.excess_tokens())
        if challenger == self._plain:
            learner, value = best, -found
        else:
            learner, value = challenger, found + speeds[best].offset
        is_surprise = speeds[learner].tried(value, variance)
        for key, speed in speeds.items():
            # What was measured of rounds through one exit is the best guess for rounds through the others.
            if key != self._plain and not speed.trials:
                speed.offset = speeds[learner].offset
        self._next = self._tokens + self.GAP_TOKENS
        self._level_tokens = 0.0
        speed = speeds[challenger]
        speed.due = self._tokens + speed.wait
        if is_surprise:
            speed.wait = self.FIRST_WAIT
        elif lost:
            speed.wait = min(2 * speed.wait, self.LAST_WAIT)
        share = self.cost_ms(challenger) / self.cost_ms(best)
        if share < (1.0 / self.LEAVE if challenger == self._plain else self.TAKE):
            self._switch(challenger)

    def _switch(self, key: Key) -> None:
        """``key`` is the best policy from now on. The one before is tried again soon."""
        before = self._speeds[self.best]
        before.wait = self.FIRST_WAIT
        before.due = self._tokens + before.wait
        self.best = key
        self._level_tokens = 0.0

    def _watch_level(self, ratio: float, tokens: int) -> None:
        """Follow measured over profiled time of the best policy. If it has moved, all policies are tried anew."""
        if self._level_tokens == 0.0:
            self._level = self._level_then = math.log(ratio)
        else:
            # A step during which the process was descheduled must not count as a change of the device.
            move = min(1.0, max(-1.0, math.log(ratio) - self._level))
            self._level += move * min(1.0, tokens / min(self._level_tokens + tokens, self.SHIFT_TOKENS))
            if self._level_tokens < self.SHIFT_TOKENS:
                self._level_then = self._level
        self._level_tokens += tokens
        if abs(self._level - self._level_then) > self.SHIFT:
            self._level_tokens = 0.0
            self._next = self._tokens
            for speed in self._speeds.values():
                speed.wait = self.FIRST_WAIT
                speed.due = min(speed.due, self._tokens)


class _Speed:
    """What is known about the speed of one policy.

    ``tokens``: how many tokens, faded, ``profiled_ms`` is known from.
    ``offset``: the logarithm of measured over profiled time, minus that of plain full depth; ``variance``: of the
    offset.
    ``factor``: exp(offset). ``trials``: how many trials there were.
    ``due``: from which token on it may be tried; ``wait``: how many tokens lie between two trials.
    """

    # The memory of profiled milliseconds per token, and how many tokens the prediction weighs at first.
    MEMORY_TOKENS = 400.0
    PRIOR_TOKENS = 64.0
    # Variances of the offset: before the first trial, and what is added between two trials.
    DOUBT, DRIFT = 0.25**2, 0.05**2
    # A trial whose result is off by more standard errors than this replaces what was known.
    SURPRISE = 3.0

    def __init__(self, predicted_ms: float) -> None:
        self.tokens = self.PRIOR_TOKENS
        self._taken_ms = predicted_ms * self.tokens
        self._least_ms = 0.1 * predicted_ms
        self._offset = 0.0
        self.factor = 1.0
        self.variance = self.DOUBT
        self.trials = 0
        self.due = 0
        self.wait = SpeedTrials.FIRST_WAIT

    @property
    def offset(self) -> float:
        return self._offset

    @offset.setter
    def offset(self, value: float) -> None:
        self._offset = value
        self.factor = math.exp(value)

    @property
    def profiled_ms(self) -> float:
        """Profiled milliseconds per token."""
        return max(self._least_ms, self._taken_ms / self.tokens)

    def learn(self, accrued_ms: float, tokens: int) -> None:
        """A step of ``tokens`` tokens took ``accrued_ms`` by the profile."""
        memory = max(0.0, 1.0 - tokens / self.MEMORY_TOKENS)
        self._taken_ms = self._taken_ms * memory + accrued_ms
        self.tokens = self.tokens * memory + tokens

    def tried(self, offset: float, variance: float) -> bool:
        """A trial has found this offset, with this variance: update the estimate as a Kalman filter does.

        Returns whether the result contradicts what was known, so that the device must have changed.
        """
        self.trials += 1
        predicted = min(self.DOUBT, self.variance + self.DRIFT)
        is_surprise = abs(offset - self.offset) > self.SURPRISE * math.sqrt(predicted + variance)
        if is_surprise:
            predicted = self.DOUBT
        gain = predicted / (predicted + variance)
        self.offset += gain * (offset - self.offset)
        self.variance = (1.0 - gain) * predicted
        return is_surprise


class _Arm:
    """The steps of one policy in a trial: (elapsed, profiled) milliseconds of each steady one, and sums of all."""

    # Where measured over profiled time of a step exceeds the median step's so many times, the excess is not counted:
    # another program must have caused it.
    MOST_TIMES = 2.5
    # The least standard deviation assumed of a step, since a few steps can be alike by chance.
    LEAST_SPREAD = 0.1

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.tokens = 0
        self.elapsed_ms = 0.0

    def found(self) -> tuple[float, float]:
        """(logarithm of measured over profiled time, its variance)."""
        usual = median(elapsed / profiled for elapsed, profiled in self.steps)
        steps = [(min(elapsed, self.MOST_TIMES * usual * profiled), profiled) for elapsed, profiled in self.steps]
        elapsed_ms = sum(elapsed for elapsed, _ in steps)
        ratio = elapsed_ms / sum(profiled for _, profiled in steps)
        count = len(steps)
        squares = sum((elapsed - ratio * profiled) ** 2 for elapsed, profiled in steps) * count / max(1, count - 1)
        return math.log(ratio), max(squares / elapsed_ms**2, self.LEAST_SPREAD**2 / count)


class _Trial:
    """A trial in progress: blocks in turn of the best policy (``ours``) and of the one that is tried (``theirs``)."""

    def __init__(self, best: Key, challenger: Key, block_tokens: int) -> None:
        self.best = self.turn = best
        self.challenger = challenger
        self.ours, self.theirs = _Arm(), _Arm()
        self.blocks = 0
        self._block_tokens = block_tokens
        self._in_block = 0

    def add(self, elapsed_ms: float, profiled_ms: float, tokens: int, steady: bool) -> None:
        """A step of the policy whose turn it is.

        ``steady``: the step before was of the same policy. Other steps count as cost, but are not compared.
        """
        arm = self.ours if self.turn == self.best else self.theirs
        arm.tokens += tokens
        arm.elapsed_ms += elapsed_ms
        self._in_block += tokens
        if steady:
            arm.steps.append((elapsed_ms, profiled_ms))

    def block_over(self) -> bool:
        """Whether the block in progress is full. If so, the next one begins."""
        if self._in_block < self._block_tokens:
            return False
        self._in_block = 0
        self.blocks += 1
        return True

    def excess_tokens(self) -> float:
        """What the trial has cost, as a number of tokens of the best policy."""
        usual_ms = self.ours.elapsed_ms / max(1, self.ours.tokens)
        return max(0.0, self.theirs.elapsed_ms / usual_ms - self.theirs.tokens)
