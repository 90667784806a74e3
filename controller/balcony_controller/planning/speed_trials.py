"""Which lossless policy is really the fastest here: measured milliseconds a token, plain full depth against rounds.

Calibrated costs say where to begin. They do not see that the calibration was made on a busy machine, nor what our own
code takes for a round's many graph calls. So policies are tried against each other: blocks of tokens in turn, so that
both meet the same machine and context.

What a token takes is a product. *Profiled milliseconds a token* depend on the text (how many drafts are right) but not
on the machine, and are remembered for long; *measured over profiled milliseconds* depend on the machine but hardly on
the text, and take a few steps. So short trials can tell policies apart, and the product is what the clock says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import median

Key = tuple[int, ...]


class SpeedTrials:
    """Decides between lossless policies, named by their depths, from the steps that they have taken.

    ``predicted``: what a token of each should take by the profile, in milliseconds; the first is plain full depth.
    ``best`` is in force; ``now`` is what the next step should use, which is another while that is tried.
    ``limit_ms``: nothing that seems dearer, in profiled milliseconds a token, is tried. ``owed_ms`` tells what catching
    up a policy's stages would take now, by the profile.
    """

    # Rounds are left as soon as they take so many times plain full depth's time; others must promise to save 3 %.
    LEAVE, TAKE = 1.01, 0.97
    # A trial: blocks of so many tokens in turn, so many of each policy; fewer once the difference is so many times its
    # standard error, or what is tried has cost so many tokens' time.
    BLOCK_TOKENS = 10
    BLOCKS = 4
    CLEAR = 2.5
    MOST_EXCESS_TOKENS = 4.0
    # Steps of each policy before anything is concluded.
    LEAST_STEPS = 3
    # A loser is tried again after so many tokens, twice as many each time that it clearly loses.
    FIRST_WAIT, LAST_WAIT = 512, 4096
    # Between two trials of whatever policies.
    GAP_TOKENS = 128
    # How often it is asked whether the choice still stands, and whether a trial is due.
    REVIEW_TOKENS = 8
    # The share of all time that trials may cost, and the most tokens' time that one is remembered for.
    SHARE = 0.005
    MOST_CHARGED = 32.0
    # Catching up a policy's stages for a trial, in tokens' time: what is more must have been saved up, or waits for a
    # reply's beginning.
    CHEAP_ENTRY = 1.0
    # Rounds other than the most promising ones are tried if they seem no dearer than this, against what is in force.
    WORTH_TRYING = 1.05
    # Everything is tried anew when measured over profiled time has moved by so much (in logarithms).
    SHIFT = 0.2
    SHIFT_TOKENS = 64.0
    # Measured over profiled time, or its inverse, beyond which it is no clock that speaks.
    MOST_RATIO = 1e6

    def __init__(self, predicted: Mapping[Key, float], owed_ms: Callable[[Key], float] = lambda key: 0.0) -> None:
        self._owed_ms = owed_ms
        self._records = {key: _Record(cost_ms) for key, cost_ms in predicted.items()}
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
        """The policy that the next step should use."""
        return self.best if self._trial is None else self._trial.turn

    def cost_ms(self, key: Key) -> float:
        """What a token takes, in plain full depth's profiled milliseconds: times its slow-down it is the clock's."""
        record = self._records[key]
        return record.profiled_ms * record.factor

    def factor(self, key: Key, seen_from: Key | None = None) -> float:
        """Measured over profiled time of a policy, against that of plain full depth, or of the policy ``seen_from``."""
        seen = 1.0 if seen_from is None else self._records[seen_from].factor
        return self._records[key].factor / seen

    def interrupt(self) -> None:
        """Other than lossless tokens come between: what a trial has found until now is dropped."""
        self._trial = None
        self._last = None

    def spent(self, key: Key, elapsed_ms: float, profiled_ms: float, accrued_ms: float, tokens: int) -> None:
        """A charged step that was wholly of the policy ``key`` has shown ``tokens`` in ``elapsed_ms``.

        Its graphs were profiled at ``profiled_ms``, and at ``accrued_ms`` where what it left waiting counts, and what
        another policy had left does not. Anything that no clock can have said changes nothing.
        """
        if len(self._records) == 1 or tokens <= 0:
            return
        if not (0.0 < profiled_ms < math.inf and math.isfinite(accrued_ms)):
            return
        if not 1.0 / self.MOST_RATIO < elapsed_ms / profiled_ms < self.MOST_RATIO:
            return
        self._tokens += tokens
        self._credit = min(self._credit + self.SHARE * tokens, self.MOST_CHARGED)
        self._records[key].learn(accrued_ms, tokens)
        # The first step after a change also runs what the other policy had left.
        steady, self._last = key == self._last, key
        trial = self._trial
        if trial is not None:
            if key == trial.turn:
                trial.add(elapsed_ms, profiled_ms, tokens, steady)
                self._judge(trial)
            return
        if key != self.best:
            return
        if steady:
            self._watch(elapsed_ms / profiled_ms, tokens)
        if self._tokens >= self._review_at:
            self._review_at = self._tokens + self.REVIEW_TOKENS
            if key != self._plain and self.cost_ms(key) > self.LEAVE * self.cost_ms(self._plain):
                self._switch(self._plain)
            elif self._tokens >= self._next and self._credit >= 0.0:
                self._begin()

    # --- trials ---

    def _begin(self) -> None:
        """Try what is due, if anything is."""
        tokens, records = self._tokens, self._records
        others = [key for key in records if key != self.best]
        due = [key for key in others if records[key].due <= tokens]
        if not due:
            self._next = min(records[key].due for key in others)
            return
        # Plain full depth first: no guess may make lossless decoding slower than that.
        others.sort(key=lambda key: (key != self._plain, self.cost_ms(key)))
        usual_ms = self.cost_ms(self.best)
        for key in others:
            most_ms = self.limit_ms if key == others[0] else min(self.limit_ms, self.WORTH_TRYING * usual_ms)
            if key in due and self.cost_ms(key) <= most_ms and self._is_near(key, usual_ms):
                self._trial = _Trial(self.best, key, self.BLOCK_TOKENS)
                return

    def _is_near(self, key: Key, usual_ms: float) -> bool:
        """Whether catching up the stages of a policy is cheap, or has been saved up."""
        entry_ms = self._owed_ms(key) * self._records[key].factor - self._owed_ms(self.best)
        return entry_ms <= (self.CHEAP_ENTRY + self._credit) * usual_ms

    def _judge(self, trial: _Trial) -> None:
        """End a trial that has told enough, or costs too much."""
        ours, theirs = trial.ours, trial.theirs
        block_over = trial.block_over()
        tried = trial.turn == trial.challenger
        # Each third step of what is tried, and each block's end: what is clearly dearer ends soon.
        is_asked = block_over or (tried and len(theirs.steps) % self.LEAST_STEPS == 0)
        if is_asked and min(len(ours.steps), len(theirs.steps)) >= self.LEAST_STEPS:
            (our, our_variance), (their, their_variance) = ours.found(), theirs.found()
            found, variance = their - our, our_variance + their_variance
            mine, other = self._records[trial.best], self._records[trial.challenger]
            dearer = found + math.log(other.profiled_ms / mine.profiled_ms)
            # Of the texts' luck a trial only tells more for what is seldom in force.
            clear = abs(dearer) > self.CLEAR * math.sqrt(variance + self._luck(trial.challenger))
            too_dear = tried and theirs.tokens * math.expm1(min(dearer, 9.0)) > self.MOST_EXCESS_TOKENS
            # Who wins must have had the other before and after: the machine may have changed in between.
            clear = clear and (dearer > 0.0 or trial.blocks > 2)
            if too_dear or (block_over and (clear or trial.blocks >= 2 * self.BLOCKS)):
                self._end(trial, found, variance, lost=(clear or too_dear) and dearer > 0.0)
                return
        if block_over:
            trial.turn = trial.best if tried else trial.challenger

    def _luck(self, key: Key) -> float:
        """Variance of the logarithm of what a token is profiled at: texts differ, and how many drafts are right."""
        return 0.0 if key == self._plain else 0.4 / self._records[key].tokens

    def _end(self, trial: _Trial, found: float, variance: float, lost: bool) -> None:
        """Learn from a trial: ``found`` is how much dearer against the profile the challenger is (in logarithms)."""
        self._trial = None
        records, best, challenger = self._records, trial.best, trial.challenger
        self._credit -= min(self.MOST_CHARGED, trial.excess_tokens())
        if challenger == self._plain:
            learner, value = best, -found
        else:
            learner, value = challenger, found + records[best].offset
        news = records[learner].tried(value, variance)
        for key, record in records.items():
            # What rounds through one exit have shown of this machine is the best guess for the others.
            if key != self._plain and not record.trials:
                record.offset = records[learner].offset
        self._next = self._tokens + self.GAP_TOKENS
        self._level_tokens = 0.0
        record = records[challenger]
        record.due = self._tokens + record.wait
        if news:
            record.wait = self.FIRST_WAIT
        elif lost:
            record.wait = min(2 * record.wait, self.LAST_WAIT)
        share = self.cost_ms(challenger) / self.cost_ms(best)
        if share < (1.0 / self.LEAVE if challenger == self._plain else self.TAKE):
            self._switch(challenger)

    def _switch(self, key: Key) -> None:
        """Another policy is the best: the one before is tried again soon."""
        before = self._records[self.best]
        before.wait = self.FIRST_WAIT
        before.due = self._tokens + before.wait
        self.best = key
        self._level_tokens = 0.0

    def _watch(self, ratio: float, tokens: int) -> None:
        """Follow measured over profiled time of the policy in force; where it has moved, trials begin anew."""
        if self._level_tokens == 0.0:
            self._level = self._level_then = math.log(ratio)
        else:
            # One descheduled step is no other machine.
            move = min(1.0, max(-1.0, math.log(ratio) - self._level))
            self._level += move * min(1.0, tokens / min(self._level_tokens + tokens, self.SHIFT_TOKENS))
            if self._level_tokens < self.SHIFT_TOKENS:
                self._level_then = self._level
        self._level_tokens += tokens
        if abs(self._level - self._level_then) > self.SHIFT:
            self._level_tokens = 0.0
            self._next = self._tokens
            for record in self._records.values():
                record.wait = self.FIRST_WAIT
                record.due = min(record.due, self._tokens)


class _Record:
    """What is known of one policy.

    ``offset``: the logarithm of measured over profiled time, less that of plain full depth; ``variance`` is its own.
    ``due``, ``wait``: the token from which it may be tried, and how many must lie between two trials.
    """

    MEMORY_TOKENS = 400.0
    # How many tokens the predicted cost weighs at first; it fades as tokens do.
    PRIOR_TOKENS = 64.0
    # The calibration's error before anything was tried, and what may have changed since the last trial (variances).
    DOUBT, DRIFT = 0.25**2, 0.05**2
    # Standard errors beyond which a trial is believed in whole.
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
        """Profiled milliseconds a token."""
        return max(self._least_ms, self._taken_ms / self.tokens)

    def learn(self, accrued_ms: float, tokens: int) -> None:
        """A step was profiled at so much."""
        kept = max(0.0, 1.0 - tokens / self.MEMORY_TOKENS)
        self._taken_ms = self._taken_ms * kept + accrued_ms
        self.tokens = self.tokens * kept + tokens

    def tried(self, offset: float, variance: float) -> bool:
        """A trial has found so much; whether that is out of keeping with what was known: then it is another machine."""
        self.trials += 1
        predicted = min(self.DOUBT, self.variance + self.DRIFT)
        news = abs(offset - self.offset) > self.SURPRISE * math.sqrt(predicted + variance)
        if news:
            predicted = self.DOUBT
        gain = predicted / (predicted + variance)
        self.offset += gain * (offset - self.offset)
        self.variance = (1.0 - gain) * predicted
        return news


class _Arm:
    """The steps of one policy in a trial."""

    # A step may take so many times its profile as the median step does: the rest is somebody else's.
    MOST_TIMES = 2.5
    # The least spread of steps, of which few may happen to be alike.
    LEAST_SPREAD = 0.1

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.tokens = 0
        self.elapsed_ms = 0.0

    def found(self) -> tuple[float, float]:
        """The logarithm of measured over profiled time, and its variance."""
        usual = median(elapsed / profiled for elapsed, profiled in self.steps)
        kept = [(min(elapsed, self.MOST_TIMES * usual * profiled), profiled) for elapsed, profiled in self.steps]
        elapsed_ms = sum(elapsed for elapsed, _ in kept)
        ratio = elapsed_ms / sum(profiled for _, profiled in kept)
        count = len(kept)
        squares = sum((elapsed - ratio * profiled) ** 2 for elapsed, profiled in kept) * count / max(1, count - 1)
        return math.log(ratio), max(squares / elapsed_ms**2, self.LEAST_SPREAD**2 / count)


class _Trial:
    """Blocks in turn: of the policy in force (``ours``), and of the one that is tried (``theirs``)."""

    def __init__(self, best: Key, challenger: Key, block_tokens: int) -> None:
        self.best = self.turn = best
        self.challenger = challenger
        self.ours, self.theirs = _Arm(), _Arm()
        self.blocks = 0
        self._block_tokens = block_tokens
        self._in_block = 0

    def add(self, elapsed_ms: float, profiled_ms: float, tokens: int, steady: bool) -> None:
        """A step of the policy whose turn it is; one that is not ``steady`` only counts as time spent."""
        arm = self.ours if self.turn == self.best else self.theirs
        arm.tokens += tokens
        arm.elapsed_ms += elapsed_ms
        self._in_block += tokens
        if steady:
            arm.steps.append((elapsed_ms, profiled_ms))

    def block_over(self) -> bool:
        """Whether the block in progress is full; the next one then begins."""
        if self._in_block < self._block_tokens:
            return False
        self._in_block = 0
        self.blocks += 1
        return True

    def excess_tokens(self) -> float:
        """How many tokens of the policy in force the trial's dearer ones have cost, at their own time."""
        usual_ms = self.ours.elapsed_ms / max(1, self.ours.tokens)
        return max(0.0, self.theirs.elapsed_ms / usual_ms - self.theirs.tokens)
