#!/usr/bin/env python3
"""Agreement of `bessemer score` with outcomes that others measured, on data sets that are not part of this project.

    BESSEMER_DATA=DIR tests/agreement/run.py [--bessemer PROGRAM] [--sample N] [--out DIR] [SET...]

DIR holds one folder for each set, as docs/AGREEMENT.md describes. Each set's rows are turned into rows for `bessemer score`
in a temporary directory; nothing of the data is kept but ids in the report. A row is excluded where the measured run was
near a time limit: that says something about two machines, not about two judges. The plus sets need numpy: BESSEMER_NUMPY_PYTHON
names an interpreter that has it (scripts/profiles.sh).
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"wall_s": 30, "cpu_s": 10, "memory_mb": 1024, "scratch_mb": 64, "processes": 64}
# HumanEval-style tests: what the sources of the sets import in front of every program
COMMON = "from typing import *\nimport math\nfrom heapq import *\nimport itertools\nimport re\nimport collections\n"


def load(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def stdio(tests, **more):
    pairs = [{"stdin": t["stdin"], "expected": t["stdout"]} for t in tests]
    return {"tests": pairs, "limits": LIMITS, **more}


def script(test_code, **more):
    return {"mode": "script", "test_code": test_code, "limits": LIMITS, **more}


class Case:
    """A row for `score` and what is expected of it: oracle name -> score, None: not compared."""

    def __init__(self, id, row, expected, excluded=None):
        self.id, self.expected, self.excluded = id, expected, excluded
        self.row = {"id": id, **row}


def near_limit(measured):
    statuses = {t["status"] for t in measured.get("tests", [])} | {measured.get("status")}
    if measured.get("borderline"):
        return "borderline"
    if statuses & {"timeout", "skipped"}:
        return "timeout"
    return None


def rfunc(measured, bandit_v):
    return {
        "published": measured["rfunc_partial"],
        "binary": measured["rfunc_binary"],
        "security": None if bandit_v is None else 1.0 - min(1.0, bandit_v),
    }


STDIO_ORACLES = ["published=partial-credit:as-published", "binary", "bandit:linear,reading=compat"]


def securecoderl(data):
    for r in load(data / "securecoderl/generations.jsonl.gz"):
        tests = r["sample_tests"]
        for field, guarded in (("measured_on_samples", False), ("measured_on_samples_injected", True)):
            measured = r.get(field)
            if not measured or not tests:
                continue
            more = {}
            if guarded:
                entry = next(l for l in r["prompt"].split("\n") if l.startswith("def "))[4:].split("(")[0].strip()
                more["guard"] = entry
            row = {"code": r["code"], "problem": stdio(tests, **more)}
            suffix = "+guard" if guarded else ""
            bandit = None if guarded else r["bandit_V"]
            yield Case(r["gen_id"] + suffix, row, rfunc(measured, bandit), near_limit(measured))


def with_problems(folder, field):
    def cases(data):
        problems = {p["problem_id"]: p for p in load(data / folder / "problems.jsonl.gz")}
        for r in load(data / folder / "generations.jsonl.gz"):
            problem = problems[r["problem_id"]]
            if field == "raw_response" and not r.get("raw_response"):
                continue
            key = "code" if field == "code" else "response"
            row = {key: r[field], "problem": stdio(problem["tests"], language="python")}
            bandit = r["bandit_V"] if field == "code" else None
            yield Case(r["gen_id"], row, rfunc(r["measured"], bandit), near_limit(r["measured"]))

    return cases


def coderl(data):
    problems = {p["problem_id"]: p for p in load(data / "coderl_apps/problems.jsonl.gz")}
    for r in load(data / "coderl_apps/generations.jsonl.gz"):
        p, m = problems[r["problem_id"]], r["measured"]
        if p["style"] == "call":
            problem = {"entry": p["entry_point"], "tests": p["tests"], "limits": LIMITS, "prefix": COMMON}
        else:
            problem = stdio(p["tests"])
        passed = m.get("passed")
        if passed is None:
            passed = sum(t["status"] == "pass" for t in m["tests"])
        total = m.get("total") or len(p["tests"])
        expected = {"binary": float(passed == total), "tests": passed / total}
        if "rfunc_binary" in m:
            expected["binary"] = m["rfunc_binary"]
        yield Case(r["gen_id"], {"code": r["code"], "problem": problem}, expected, near_limit(m))


def ldb(data):
    problems = {p["problem_id"]: p for p in load(data / "ldb_humaneval_mbpp/problems.jsonl.gz")}
    for r in load(data / "ldb_humaneval_mbpp/generations.jsonl.gz"):
        p, m = problems[r["problem_id"]], r["measured"]
        test = f"{p['test']}\ncheck({p['entry_point']})\n"
        row = {"code": r["code"], "problem": script(test, prefix=COMMON)}
        slow = "borderline" if (m.get("wall_s") or 0) >= 2.5 else None
        expected = {"binary": float(m["passed"])}
        if r.get("bandit_V") is not None:
            expected["security"] = 1.0 - min(1.0, r["bandit_V"])
        # Bandit saw the bare program, so the prefix is measured apart
        yield Case(r["gen_id"], row, {"binary": expected["binary"]}, near_limit(m) or slow)


def humaneval_problems(data):
    return {p["task_id"]: p for p in load(data / "humaneval/HumanEval.jsonl.gz")}


def codet(data):
    problems = humaneval_problems(data)
    for r in load(data / "codet_codegen16b/samples.jsonl.gz"):
        p = problems[r["task_id"]]
        test = f"{p['test']}\ncheck({p['entry_point']})\n"
        limits = {**LIMITS, "cpu_s": 6, "wall_s": 20}
        for i, (completion, m) in enumerate(zip(r["completions"], r["measured"])):
            row = {"code": p["prompt"] + completion, "problem": {**script(test), "limits": limits}}
            slow = "timeout" if (m.get("cpu_s") or 0) >= 1.5 or m["status"] == "timeout" else None
            yield Case(f"{r['task_id']}@{i}", row, {"binary": float(m["passed"])}, slow)


def humaneval(data):
    for id, p in humaneval_problems(data).items():
        test = f"{p['test']}\ncheck({p['entry_point']})\n"
        row = {"code": p["prompt"] + p["canonical_solution"], "problem": script(test)}
        yield Case(id, row, {"binary": 1.0})


def humaneval_plus(data):
    for p in load(data / "evalplus/HumanEvalPlus-OriginFmt.jsonl.gz"):
        # the set's own note: the answer of this task is not unique, and its self-contained test does not know
        expected = 0.0 if p["task_id"] == "HumanEval/32" else 1.0
        test = f"{p['test']}\ncheck({p['entry_point']})\n"
        problem = {**script(test), "limits": {**LIMITS, "cpu_s": 60, "wall_s": 120, "memory_mb": 4096}, "profile": "numpy"}
        yield Case(p["task_id"], {"code": p["prompt"] + p["canonical_solution"], "problem": problem}, {"binary": expected})


def mbpp_plus(data):
    for p in load(data / "evalplus/MbppPlus-OriginFmt.jsonl.gz"):
        problem = {**script(p["test"]), "limits": {**LIMITS, "cpu_s": 60, "wall_s": 120, "memory_mb": 4096}, "profile": "numpy"}
        yield Case(f"Mbpp/{p['task_id']}", {"code": p["code"], "problem": problem}, {"binary": 1.0})


KATTIS_LANGUAGES = {"c++": "cpp", "python3": "python", "python": "python", "python 3": "python", "c": "c", "rust": "rust"}


def kattis(data):
    for p in load(data / "kattis_problemtools/problems.jsonl.gz"):
        # a test that only names another one's files is a link in the source
        tests = [t for t in p["tests"] if not t["stdin"].rstrip().endswith(".in")]
        for number, s in enumerate(p["submissions"]):
            language = KATTIS_LANGUAGES.get(s["language"].lower())
            if language is None or s["expected_verdict"] in ("time_limit_exceeded", "slow_accepted"):
                continue
            if s["name"].endswith("_py2.py"):  # labelled with a language that it is not in
                continue
            problem = stdio(tests, comparator="tokens")
            problem["limits"] = {**LIMITS, "memory_mb": 256}  # what the problem's own limit is taken to be
            row = {"code": s["source"], "language": language, "problem": problem}
            expected = {"binary": float(s["expected_verdict"] == "accepted")}
            yield Case(f"{p['problem_id']}/{number}-{s['name']}", row, expected)


def kattis_comparators(data):
    """Outputs and flags of the default output validator: a program prints each output, our validator judges it."""
    for v in load(data / "kattis_problemtools/comparator_vectors.jsonl.gz"):
        code = f"import sys\nsys.stdout.buffer.write({v['user_output'].encode()!r})\n"
        problem = stdio([{"stdin": "", "stdout": v["judge_answer"]}], comparator={"validator": " ".join(v["args"])})
        yield Case(v["name"], {"code": code, "problem": problem}, {"binary": float(v["accepted"])})


SETS = {
    "securecoderl": (securecoderl, STDIO_ORACLES),
    "mapcoder_apps": (with_problems("mapcoder_apps", "code"), STDIO_ORACLES),
    "mapcoder_apps-responses": (with_problems("mapcoder_apps", "raw_response"), STDIO_ORACLES[:2]),
    "livecodebench_o1": (with_problems("livecodebench_o1", "code"), STDIO_ORACLES),
    "livecodebench_o1-responses": (with_problems("livecodebench_o1", "raw_response"), STDIO_ORACLES[:2]),
    "coderl_apps": (coderl, ["binary", "tests"]),
    "ldb_humaneval_mbpp": (ldb, ["binary"]),
    "codet_codegen16b": (codet, ["binary"]),
    "humaneval": (humaneval, ["binary"]),
    "humaneval_plus": (humaneval_plus, ["binary"]),
    "mbpp_plus": (mbpp_plus, ["binary"]),
    "kattis": (kattis, ["binary"]),
    "kattis_comparators": (kattis_comparators, ["binary"]),
}


def run_set(name, args, out):
    make, oracles = SETS[name]
    cases = list(make(Path(os.environ["BESSEMER_DATA"])))
    if args.sample and len(cases) > args.sample:
        cases = random.Random(20261120).sample(cases, args.sample)
    rows, scored = out / f"{name}.rows.jsonl", out / f"{name}.scored.jsonl"
    with open(rows, "w", encoding="utf-8") as file:
        # what is not compared is not run: most of it is programs at their time limit
        file.writelines(json.dumps(c.row) + "\n" for c in cases if not c.excluded)
    if not args.bandit:
        oracles = [o for o in oracles if not o.startswith("bandit")]
    names = [o.split("=")[0] if "=" in o.split(",")[0].split(":")[0] else o.split(":")[0] for o in oracles]
    names = ["security" if n == "bandit" else n for n in names]
    command = [args.bessemer, "score", str(rows), "--out", str(scored), f"--combine=all({','.join(names)})"]
    command += [f"--oracle={o}" for o in oracles]
    command += ["--bandit-python", args.bandit] if args.bandit else []
    begun = time.time()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    seconds = time.time() - begun
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        sys.exit(f"{name}: bessemer score ended with {done.returncode}")
    got = {}
    with open(scored, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            got[row["id"]] = {o["oracle"]: o for o in row["oracles"]}
    agree, excluded, wrong = 0, 0, []
    for case in cases:
        if case.excluded:
            excluded += 1
            continue
        different = []
        for oracle, expected in case.expected.items():
            if expected is None or oracle not in names:
                continue
            row = got[case.id][oracle]
            if row["score"] is None or abs(row["score"] - expected) > 1e-6:
                different.append((oracle, expected, row["score"], row["reason"]))
        if different:
            wrong.append((case.id, different))
        else:
            agree += 1
    n = agree + len(wrong)
    share = 100.0 * agree / max(n, 1)
    print(f"| {name} | {len(cases)} | {excluded} | {n} | {agree} | {share:.2f} % | {seconds:.0f} s |", flush=True)
    return n, agree, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bessemer", default="target/release/bessemer")
    parser.add_argument("--bandit", default=None, help="Python of the Bandit environment; without it that oracle is left out")
    parser.add_argument("--sample", type=int, default=0, help="rows of each set, drawn with a fixed seed; 0: all")
    parser.add_argument("--out", default=None, help="keep rows and scores here")
    parser.add_argument("--least", type=float, default=99.5, help="per cent of agreement below which the status is 1")
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    args = parser.parse_args()
    if "BESSEMER_DATA" not in os.environ:
        print("SKIPPED: BESSEMER_DATA is not set")
        return 0
    bad = False
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(args.out or temporary)
        out.mkdir(parents=True, exist_ok=True)
        print("| set | rows | excluded | compared | agree | share | time |\n|---|---|---|---|---|---|---|")
        found = {name: run_set(name, args, out) for name in (args.sets or SETS)}
        for name, (n, agree, wrong) in found.items():
            bad |= n > 0 and 100.0 * agree / n < args.least
            for id, different in wrong:
                for oracle, expected, score, reason in different:
                    print(f"{name} {id}: {oracle} measured {expected}, here {score}: {reason[:160]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
