"""What every test has."""

from __future__ import annotations

from hypothesis import Phase, settings

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("trio-watchbus", settings.default, deadline=None)
# For a long run: pytest --hypothesis-profile=thorough
settings.register_profile("thorough", settings.get_profile("trio-watchbus"), max_examples=5_000)
# For tests/mutants and tests/faults: a failure need not be shrunk, and comes the same each time.
settings.register_profile(
    "mutants",
    settings.get_profile("trio-watchbus"),
    phases=[Phase.explicit, Phase.generate],
    database=None,
    derandomize=True,
)
settings.load_profile("trio-watchbus")
