"""The machines that `run.py` boots, and what must hold in each.

tier      what the sandbox must say it is; None: nothing may run
options   what has to be typed behind `bessemer sandbox run` and `batch` for that tier, where the default refuses it
refuses   words of the message with which the default options must refuse (exit status not 0, no program started)
user      0, or an ordinary user's id, who runs everything
group     "root": in the root control group; "delegated": a scope as `systemd-run --user --scope -p Delegate=yes`
          makes one; None: in a group that is not the user's
sysctl    set before anything runs
append    more words for the kernel's command line
tests     run the test programs of the sandbox's crates, hostile programs included
processes programs may start processes (in `smoke` in guest.py)
"""

NO_USERNS = {
    "user": 1000,
    "sysctl": {"user.max_user_namespaces": 0},
    "processes": False,
    "tests": False,
    "refuses": "user namespaces are refused",
}

CONFIGURATIONS = {
    "cgroup2-root": {"user": 0, "group": "root", "tier": "A"},
    "cgroup2-delegated": {"user": 1000, "group": "delegated", "tier": "A"},
    "plain-user": {"user": 1000, "tier": "B"},
    "no-netns": {"user": 1000, "tier": "B-", "sysctl": {"user.max_net_namespaces": 0}},
    "no-userns": {**NO_USERNS, "tier": "C", "options": ["--tier-min", "C"]},
    "no-userns-no-landlock": {
        **NO_USERNS,
        "tier": "D",
        "options": ["--tier-min", "D"],
        "append": "lsm=yama,apparmor",
    },
}

DEFAULTS = {
    "options": [],
    "refuses": None,
    "group": None,
    "sysctl": {},
    "append": "",
    "tests": True,
    "processes": True,
}


def configuration(name):
    return {"name": name, **DEFAULTS, **CONFIGURATIONS[name]}


# Tests that say nothing about the machine, or need what an ordinary user cannot read of it. By the name of the test
# program ("" for all), substrings of test names.
SKIP = {
    # needs rustc, which lies in a home that only its owner can read
    1000: {"compiling": ["hostile_source_is_a_compile_error"]},
    0: {},
}
