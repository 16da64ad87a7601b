"""Who reads how much: nobody starves, short prompts do not wait for long ones, clients share alike."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.scheduler import PromptTurns, share_of_one, without_followers


@dataclass
class Prompt:
    """Stands for a sequence that reads its prompt."""

    uncomputed: int
    client: str = ""
    computed: int = 0
    page_key: str | None = None
    can_follow: bool = False


def read_all(prompts: list[Prompt], room: int) -> list[int]:
    """At which step each prompt is read to its end."""
    turns = PromptTurns()
    ends = [0] * len(prompts)
    for step in range(1, 10_000):
        left = [prompt for prompt in prompts if prompt.uncomputed > 0]
        if not left:
            return ends
        shares = turns.share(left, room)
        assert sum(count for _, count in shares) == min(room, sum(prompt.uncomputed for prompt in left))
        assert len({id(prompt) for prompt, _ in shares}) == len(shares)
        for prompt, count in shares:
            assert 0 < count <= prompt.uncomputed
            prompt.uncomputed -= count
            if prompt.uncomputed == 0:
                ends[next(i for i, other in enumerate(prompts) if other is prompt)] = step
    raise AssertionError("a prompt starves")


@given(
    st.lists(st.tuples(st.integers(1, 300), st.sampled_from("abc")), min_size=1, max_size=12),
    st.integers(1, 600),
)
def test_all_room_is_used_and_every_prompt_ends(prompts: list[tuple[int, str]], room: int) -> None:
    read_all([Prompt(length, client) for length, client in prompts], room)


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    long, short = read_all([Prompt(4000), Prompt(100)], 10)
    assert (long, short) == (410, 20)
    assert read_all([Prompt(4000), Prompt(100)], 512)[1] == 1


def test_a_long_prompt_is_read_while_short_ones_keep_coming() -> None:
    turns = PromptTurns()
    long = Prompt(4000)
    for _ in range(800):
        for prompt, count in turns.share([long, Prompt(100), Prompt(100)], 10):
            prompt.uncomputed -= count
    assert long.uncomputed == 0


def test_equal_prompts_end_in_the_order_in_which_they_came() -> None:
    assert read_all([Prompt(256) for _ in range(8)], 512) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_client_with_many_prompts_gets_no_more_than_others() -> None:
    prompts = [Prompt(1000, "many") for _ in range(9)] + [Prompt(1000, "one")]
    assert read_all(prompts, 100)[9] <= 20


def test_who_comes_back_at_once_does_not_overtake() -> None:
    """A client whose prompts are short, one at a time, beside one with a long prompt."""
    turns = PromptTurns()
    long = Prompt(1000, "long")
    for _ in range(20):
        for prompt, count in turns.share([long, Prompt(100, "short")], 100):
            prompt.uncomputed -= count
    assert long.uncomputed == 0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 99))
def test_the_first_has_half_and_the_shortest_go_first(lengths: list[int], room: int) -> None:
    prompts = [Prompt(length) for length in lengths]
    counts = [0] * len(prompts)
    for prompt, count in share_of_one(prompts, room):
        counts[next(i for i, other in enumerate(prompts) if other is prompt)] = count
    assert counts[0] >= min(lengths[0], room - room // 2)
    for i, length in enumerate(lengths[1:], 1):
        for j, other in enumerate(lengths[1:], 1):
            if length < other and counts[j] > 0:
                assert counts[i] == length


def test_followers_wait_for_whoever_is_further() -> None:
    ahead = Prompt(50, computed=70, page_key="b", can_follow=True)
    behind = Prompt(120, computed=64, page_key="b", can_follow=True)
    cannot = Prompt(120, computed=64, page_key="b")
    other = Prompt(120, computed=64, page_key="c", can_follow=True)
    private = [Prompt(10, can_follow=True), Prompt(10, can_follow=True)]
    reading = [behind, cannot, ahead, other, *private]
    assert without_followers(reading) == [cannot, ahead, other, *private]
    assert without_followers([behind, other]) == [behind, other]
    first, second = (Prompt(9, page_key="a", can_follow=True) for _ in range(2))
    (kept,) = without_followers([first, second])
    assert kept is first
