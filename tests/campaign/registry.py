"""Where each programme of the campaign lies: a module with a `PROGRAMME`, loaded when asked for."""

from __future__ import annotations

from importlib import import_module

from tests.campaign.programme import Programme

MODULES: dict[str, str] = {
    "T1": "tests.campaign.t1_crash_states",
    "ROT": "tests.campaign.rot",
    "T2": "tests.campaign.t2_kills",
    "T3": "tests.campaign.t3_power_cuts",
    "T4": "tests.campaign.t4_disk_errors",
    "T5": "tests.campaign.t5_simulation",
    "T6": "tests.campaign.t6_protocol",
    "T7": "tests.campaign.t7_machine",
    "T8": "tests.campaign.t8_determinism",
    "T9": "tests.campaign.t9_golden",
    "T10": "tests.campaign.t10_fuzzing",
    "T11": "tests.campaign.t11_processes",
    "T12": "tests.campaign.t12_clocks",
    "T13": "tests.campaign.t13_threads",
    "T14": "tests.campaign.t14_loads",
    "T15": "tests.campaign.t15_soak",
    "T16": "tests.campaign.t16_sabotage",
    "SEAL": "tests.campaign.seal_tampering",
}
HIDDEN = {"T0": "tests.campaign.t0_wrong"}  # for the tests of the campaign itself


def load(key: str) -> Programme:
    """Return the programme `key`, "T1" to "T17"."""
    module = (MODULES | HIDDEN)[key]
    programme = import_module(module).PROGRAMME
    if not isinstance(programme, Programme) or programme.key != key:
        raise TypeError(f"{module}.PROGRAMME is not the programme {key}, but {programme!r}")
    return programme
