"""Faults of what is offered to test with, and of the command."""

from __future__ import annotations

from mutants.mutant import Mutant

TESTS = ("tests/test_testing.py",)

LEFT = "testing/_left.py"

PROXY = "testing/_proxy.py"

PROXY_TESTS = ("tests/test_fault_proxy.py",)

MUTANTS = [
    Mutant(
        "trie nodes that are left are passed over",
        LEFT,
        '        "trie nodes": statistics.trie_nodes,\n',
        "",
        TESTS,
    ),
    Mutant(
        "watched prefixes that are left are passed over",
        LEFT,
        '        "watched prefixes": statistics.watched_prefixes,\n',
        "",
        TESTS,
    ),
    Mutant(
        "a check may leave a watch",
        "testing/_checks.py",
        "                    assert_no_watches(handles)\n",
        "",
        TESTS,
    ),
    Mutant(
        "the bus of the fixture stays open",
        "testing/plugin.py",
        "    finally:\n        bus.close()\n",
        "    finally:\n        pass\n",
        TESTS,
    ),
    Mutant(
        "the bus of the fixture stays open where a watch was left",
        "testing/plugin.py",
        "            assert_no_watches([bus])\n    finally:\n        bus.close()\n",
        "            assert_no_watches([bus])\n        bus.close()\n    finally:\n        pass\n",
        TESTS,
    ),
    Mutant(
        "a thread passes as idle by the beginning of its name",
        LEFT,
        "_IDLE_THREAD.fullmatch(",
        "_IDLE_THREAD.match(",
        TESTS,
    ),
    Mutant(
        "what is left is waited for by a clock that stands still",
        LEFT,
        "    if clock.autojump_threshold == math.inf:\n",
        "    if not clock:\n",
        TESTS,
    ),
    Mutant(
        "what ends in the time of a clock that jumps is not waited for",
        LEFT,
        "    if clock.autojump_threshold == math.inf:\n",
        "    if clock:\n",
        TESTS,
    ),
    Mutant(
        "a clock that jumps is run far ahead",
        LEFT,
        "    time.sleep(0.001)  # noqa",
        "    # noqa",
        TESTS,
    ),
    Mutant(
        "a check that hangs fails as too slow",
        "testing/_checks.py",
        "        except trio.TooSlowError as error:\n",
        "        except ZeroDivisionError as error:\n",
        TESTS,
    ),
    Mutant(
        "one quick attempt ends the cancelling everywhere",
        "testing/_cancelling.py",
        "_LATE_STEPS = 5\n",
        "_LATE_STEPS = 1\n",
        TESTS,
    ),
    Mutant(
        "a reset is passed on at once",
        PROXY,
        "                await self._wait_released()\n                return True\n",
        "                return True\n",
        PROXY_TESTS,
    ),
    Mutant(
        "a reset that the way back finds is passed on at once",
        PROXY,
        "            await back._done.wait()\n",
        "",
        PROXY_TESTS,
    ),
    Mutant(
        "a reset after the end is passed on at once",
        PROXY,
        "            await back._direction._wait_released()\n",
        "",
        PROXY_TESTS,
    ),
    Mutant(
        "a reset that the way back finds is passed on as an end",
        PROXY,
        "            back._source_is_gone = True\n",
        "",
        PROXY_TESTS,
    ),
    Mutant(
        "that a target is not there is told at once",
        PROXY,
        "            await self.to_client._wait_released()\n",
        "            await trio.lowlevel.checkpoint()\n",
        PROXY_TESTS,
    ),
    Mutant(
        "a server may have no more files open than the shell lets it",
        "_cli/_worker.py",
        "    _allow_files(options.max_connections + _SPARE_FILES)\n",
        "",
        ("tests/cli/test_serve.py",),
    ),
]
