"""A real Slurm in one private directory, for tests: munged, slurmctld, several slurmd and, on request, slurmdbd with
MariaDB. No systemd, no root needed, loopback only, nothing written outside the directory.

`up`, `ctl` and `down` are the commands; this file is what they share. Every daemon is remembered as (pid, start time),
because a pid alone may belong to somebody else by the time we signal it.
"""

import getpass
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# Marks our daemons in /proc/PID/environ. slurmd hands it on to its slurmstepds, which outlive it.
MARK_ROOT = "BESSEMER_TEST_CLUSTER"
MARK_NODE = "BESSEMER_TEST_NODE"

PACKAGES = "slurmctld slurmd slurm-client munge"
PACKAGES_DBD = "slurmdbd mariadb-server"


class Trouble(Exception):
    """Something a person has to read; no traceback wanted."""


# ---------------------------------------------------------------------------------------------------- processes


def start_time(pid):
    """Start time in clock ticks since boot, or None if there is no such (living) process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before the last ')' may hold anything
    return None if fields[0] == "Z" else int(fields[19])


def environment(pid):
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in raw.split(b"\0"))
    return {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, _, v in pairs}


def processes():
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


def wait_until(seconds, what, condition):
    """Polls `condition`, the only way to learn that a foreign daemon is ready."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Trouble(f"{what} within {seconds} s: this did not happen")
        time.sleep(0.03)


# ------------------------------------------------------------------------------------------------------ cluster


class Cluster:
    def __init__(self, root):
        self.root = Path(root).resolve()
        self.conf = self.root / "etc/slurm.conf"
        self.socket = self.root / "run/munge.socket"

    def path(self, *parts):
        return self.root.joinpath(*parts)

    # -- what is running

    def daemons(self):
        """Name -> command line, in the order in which they start."""
        try:
            return json.loads(self.path("run/daemons.json").read_text())
        except FileNotFoundError:
            raise Trouble(f"{self.root} holds no cluster: start one with `up {self.root}`") from None

    def nodes(self):
        return [name for name in self.daemons() if name not in ("munged", "mariadbd", "slurmdbd", "slurmctld")]

    def pid(self, name):
        """Pid of a living daemon, or None."""
        try:
            pid, started = map(int, self.path("run", name + ".pid").read_text().split())
        except (OSError, ValueError):
            return None
        return pid if start_time(pid) == started else None

    def slurm(self, *argv):
        """Runs a Slurm command against this cluster."""
        env = dict(os.environ, SLURM_CONF=str(self.conf))
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)

    # -- verbs

    def start(self, name):
        command = self.daemons().get(name)
        if command is None:
            raise Trouble(f"no daemon {name!r}; there are: {' '.join(self.daemons())}")
        if self.pid(name):
            return
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        env.update({"SLURM_CONF": str(self.conf), MARK_ROOT: str(self.root), MARK_NODE: name})
        with open(self.path("log", name + ".out"), "ab") as log:
            child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.path("run", name + ".pid").write_text(f"{child.pid} {start_time(child.pid) or 0}\n")

    def send(self, name, signo):
        pid = self.pid(name)
        if pid is None:
            raise Trouble(f"{name} is not running")
        os.kill(pid, signo)

    def end(self, name, signo=signal.SIGTERM, patience=10.0):
        """Signals one daemon and waits until it is gone; SIGKILL when patience runs out."""
        pid = self.pid(name)
        if pid:
            # a stopped process ignores SIGTERM until it is continued
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signo)
            end = time.monotonic() + patience
            while self.pid(name):
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                    end += patience
                time.sleep(0.02)
        self.path("run", name + ".pid").unlink(missing_ok=True)

    def job_processes(self, node):
        """slurmstepds of a node, and everything its jobs started, even what has left its session: slurmd puts
        SLURM_CONF and SLURMD_NODENAME into every job's environment."""
        found = []
        for pid in processes():
            env = environment(pid)
            if env.get(MARK_ROOT) == str(self.root) and env.get(MARK_NODE) == node:
                found.append(pid)
            elif env.get("SLURM_CONF") == str(self.conf) and env.get("SLURMD_NODENAME") == node:
                found.append(pid)
        return [pid for pid in found if pid != os.getpid()]

    def crash(self, node):
        """As if the power had failed: slurmd, its slurmstepds and all job processes die at once."""
        self.end(node, signal.SIGKILL)
        for _ in range(20):  # a process may fork while we look
            left = self.job_processes(node)
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)

    def down(self, purge):
        names = self.daemons()
        if "slurmctld" in names:
            self.end("slurmctld", patience=3.0)
        for node in self.nodes():
            self.crash(node)
        for name in ("slurmdbd", "mariadbd", "munged"):
            if name in names:
                self.end(name)
        if purge:
            shutil.rmtree(self.root, ignore_errors=True)
        else:
            shutil.rmtree(self.path("run"), ignore_errors=True)


# ------------------------------------------------------------------------------------------------------- set-up


def find(program, packages):
    """The real daemon: Debian may point the plain name at the emulator build (`update-alternatives`)."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in (program + "-wlm", program):
        where = shutil.which(name, path=search)
        if where:
            return where
    raise Trouble(f"{program} is not installed: apt-get install --no-install-recommends {packages}")


def free_ports(count):
    """A run of free ports below the kernel's ephemeral range, so that no outgoing connection can take one meanwhile."""
    for _ in range(200):
        base = random.SystemRandom().randrange(20000, 31000)
        sockets = []
        try:
            for port in range(base, base + count):
                s = socket.socket()
                sockets.append(s)
                s.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()
    raise Trouble("no run of free ports between 20000 and 31000")


def fake_gpus(cluster, count):
    """gres.conf wants device nodes. Root makes private ones; others borrow harmless devices of the machine."""
    made = []
    for k in range(count):
        path = cluster.path("dev", f"gpu{k}")
        try:
            os.mknod(path, 0o20666, os.makedev(1, 3))
            made.append(str(path))
        except PermissionError:
            made.append(("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")[k])
    return ",".join(made)


def node_range(count):
    return "n1" if count == 1 else f"n[1-{count}]"


def slurm_conf(cluster, opt, base):
    host = socket.gethostname().split(".")[0]
    user = getpass.getuser()
    conf = {
        "ClusterName": "bessemertest",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": base,
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # cred_expire is also how long a requeued job is held back; Slurm's own default is 120 s
        "AuthInfo": f"socket={cluster.socket},cred_expire=4",
        "StateSaveLocation": cluster.path("state"),
        "SlurmdSpoolDir": cluster.path("spool", "%n"),
        "SlurmctldPidFile": cluster.path("run/slurmctld.own.pid"),
        "SlurmdPidFile": cluster.path("run/slurmd.%n.own.pid"),
        "SlurmctldLogFile": cluster.path("log/slurmctld.log"),
        "SlurmdLogFile": cluster.path("log/slurmd.%n.log"),
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        # memory limits by polling: no cgroups needed
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=20000,"
        "default_queue_depth=10000,partition_job_depth=0,bf_interval=1,bf_continue,bf_max_job_test=5000,"
        "bf_busy_nodes,max_array_tasks=2001",
        "PriorityType": "priority/basic",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "EnforcePartLimits": "ANY",
        "JobRequeue": 1,
        "MaxArraySize": 2001,
        "MaxJobCount": 20000,
        "GresTypes": "gpu",
        "MinJobAge": 60,
        "KillWait": 3,
        "CompleteWait": 0,
        "InactiveLimit": 0,
        "WaitTime": 0,
        "SlurmctldTimeout": 5,
        "SlurmdTimeout": 10,
        "MessageTimeout": 10,
        "TCPTimeout": 2,
        "BatchStartTimeout": 10,
        "ReturnToService": 2,
        # the virtual nodes claim more CPUs and memory than they have
        "SlurmdParameters": "config_overrides",
    }
    try:
        loopback = socket.gethostbyname(host).startswith("127.")
    except OSError:
        loopback = False
    if loopback:
        conf["CommunicationParameters"] = "NoCtldInAddrAny,NoInAddrAny"
    else:
        print(f"up: {host} does not resolve to 127.*: Slurm will listen on every address", file=sys.stderr)
    if opt.accounting:
        conf.update(
            {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": base + 1,
                "AccountingStoragePass": cluster.socket,
                "AccountingStorageTRES": "gres/gpu",
                "AccountingStorageEnforce": "associations,limits,qos",
                "AccountingStoreFlags": "job_comment",
            }
        )
    else:
        conf["AccountingStorageType"] = "accounting_storage/none"
    for item in opt.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise Trouble(f"--set {item}: write KEY=VALUE, as in slurm.conf")
        conf[next((k for k in conf if k.lower() == key.lower()), key)] = value

    lines = [f"{k}={v}" for k, v in conf.items()]
    gpu_nodes = min(opt.gpu_nodes, opt.nodes)
    for i in range(1, opt.nodes + 1):
        gres = f" Gres=gpu:fake:{opt.gpus} Feature=gpu,n{i}" if i <= gpu_nodes else f" Feature=cpu,n{i}"
        lines.append(
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={base + 2 + i} CPUs={opt.cpus} "
            f"RealMemory={opt.memory} State=UNKNOWN{gres}"
        )
    every, gpu = node_range(opt.nodes), node_range(max(gpu_nodes, 1))
    common = "OverSubscribe=NO DefMemPerCPU=100"
    lines += [
        f"PartitionName=batch Nodes={every} Default=YES DefaultTime=10 MaxTime=UNLIMITED PriorityTier=10 PreemptMode=OFF {common}",
        f"PartitionName=short Nodes={every} DefaultTime=1 MaxTime=1 PriorityTier=10 PreemptMode=OFF {common}",
        f"PartitionName=low Nodes={every} DefaultTime=10 MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE {common}",
        f"PartitionName=lowcancel Nodes={every} DefaultTime=10 MaxTime=60 PriorityTier=1 PreemptMode=CANCEL {common}",
        f"PartitionName=gpu Nodes={gpu} DefaultTime=10 MaxTime=60 PriorityTier=10 PreemptMode=OFF {common}",
        f"PartitionName=closed Nodes={every} DefaultTime=10 MaxTime=60 State=DOWN PriorityTier=10 {common}",
    ]
    return "\n".join(lines) + "\n"


def private(path, text):
    """Writes a file that only its owner can read, from its first byte on."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())


def lay_out(cluster, opt):
    """Writes every file of a new cluster and the list of its daemons; starts nothing."""
    programs = {p: find(p, PACKAGES) for p in ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "sinfo")}
    if opt.accounting:
        programs |= {p: find(p, PACKAGES_DBD) for p in ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")}
    if any(c.isspace() for c in str(cluster.root)):
        raise Trouble(f"{cluster.root}: Slurm cannot live in a directory with blanks in its name")
    if cluster.path("run").exists():
        raise Trouble(f"{cluster.root} already holds a cluster: `down --purge {cluster.root}` first")
    cluster.root.mkdir(parents=True, exist_ok=True)
    cluster.root.chmod(0o755)  # jobs of other users must reach the munge socket and slurm.conf
    for sub in ("etc", "run", "log", "state", "spool", "dev", "bin"):
        cluster.path(sub).mkdir(exist_ok=True)
        cluster.path(sub).chmod(0o755)
    # Slurm's daemons go by argv[0]: called `slurmd-wlm` they would not parse half of their options
    for name in ("slurmctld", "slurmd", "slurmstepd"):
        cluster.path("bin", name).symlink_to(programs[name])

    base = free_ports(3 + opt.nodes)
    cluster.conf.write_text(slurm_conf(cluster, opt, base))
    gres = ""
    if opt.gpu_nodes and opt.gpus:
        if opt.gpus > 6:
            raise Trouble("--gpus: at most 6 per node")
        files = fake_gpus(cluster, opt.gpus).split(",")
        where = node_range(min(opt.gpu_nodes, opt.nodes))
        gres = "".join(f"NodeName={where} Name=gpu Type=fake File={f}\n" for f in files)
    cluster.path("etc/gres.conf").write_text(gres)
    private(cluster.path("etc/munge.key"), secrets.token_bytes(128))
    cluster.path("env.sh").write_text(f"export SLURM_CONF={cluster.conf}\n")

    root, user = cluster.root, getpass.getuser()
    daemons = {
        "munged": [
            programs["munged"], "--foreground",
            "--force",  # a directory below a world-writable one (/tmp) fails munged's own checks
            "--origin=127.0.0.1", "--num-threads=4", f"--key-file={root}/etc/munge.key", f"--socket={cluster.socket}",
            f"--pid-file={root}/run/munged.own.pid", f"--log-file={root}/log/munged.log",
            f"--seed-file={root}/run/munged.seed",
        ]
    }  # fmt: skip
    if opt.accounting:
        daemons |= accounting_daemons(cluster, programs, user, base)
    daemons["slurmctld"] = [str(cluster.path("bin/slurmctld")), "-D", "-f", str(cluster.conf)]
    for i in range(1, opt.nodes + 1):
        cluster.path("spool", f"n{i}").mkdir()
        daemons[f"n{i}"] = [
            str(cluster.path("bin/slurmd")), "-D", "-N", f"n{i}", "-f", str(cluster.conf),
            "-d", str(cluster.path("bin/slurmstepd")),
        ]  # fmt: skip
    cluster.path("run/daemons.json").write_text(json.dumps(daemons, indent=1))
    return base


def accounting_daemons(cluster, programs, user, base):
    root, password = cluster.root, secrets.token_hex(16)
    host = socket.gethostname().split(".")[0]
    done = subprocess.run(
        [
            programs["mariadb-install-db"], "--no-defaults", f"--user={user}", f"--datadir={root}/db",
            "--skip-test-db", "--skip-name-resolve", "--auth-root-authentication-method=socket",
            f"--auth-root-socket-user={user}",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Trouble(f"mariadb-install-db failed:\n{done.stdout}{done.stderr}")
    private(
        cluster.path("etc/init.sql"),
        "CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
        f"CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';\n",
    )
    dbd = {
        "AuthType": "auth/munge", "AuthInfo": cluster.socket, "DbdAddr": "127.0.0.1", "DbdHost": host,
        "DbdPort": base + 1, "SlurmUser": user, "LogFile": cluster.path("log/slurmdbd.log"),
        "PidFile": cluster.path("run/slurmdbd.own.pid"), "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1", "StoragePort": base + 2, "StorageUser": "slurm", "StoragePass": password,
        "StorageLoc": "slurm_acct_db", "CommitDelay": 1,
    }  # fmt: skip
    private(cluster.path("etc/slurmdbd.conf"), "".join(f"{k}={v}\n" for k, v in dbd.items()))
    private(
        cluster.path("etc/client.cnf"),
        f"[client]\nhost=127.0.0.1\nport={base + 2}\nuser=slurm\npassword={password}\n",
    )
    return {
        "mariadbd": [
            programs["mariadbd"], "--no-defaults", f"--user={user}", f"--datadir={root}/db",
            "--bind-address=127.0.0.1", f"--port={base + 2}", f"--socket={root}/run/mariadb.socket",
            f"--pid-file={root}/run/mariadbd.own.pid", f"--init-file={root}/etc/init.sql", "--skip-name-resolve",
            f"--log-error={root}/log/mariadbd.log", "--innodb-lock-wait-timeout=900",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",  # nobody needs this database after a power cut
        ],
        "slurmdbd": [programs["slurmdbd"], "-D"],
    }  # fmt: skip


def bring_up(cluster, opt):
    """Starts every daemon and returns when all nodes are idle."""
    cluster.start("munged")
    wait_until(10, "munged opens its socket", cluster.socket.exists)
    if opt.accounting:
        start_accounting(cluster, opt)
    cluster.start("slurmctld")
    for node in cluster.nodes():
        cluster.start(node)

    def idle():
        for name in cluster.daemons():
            if cluster.pid(name) is None:
                raise Trouble(f"{name} died at once: see {cluster.root}/log")
        out = cluster.slurm("sinfo", "-h", "-N", "-p", "batch", "-t", "idle", "-o", "%N").stdout
        return len(set(out.split())) == opt.nodes

    wait_until(opt.patience, f"all {opt.nodes} nodes are idle (logs: {cluster.root}/log)", idle)


def start_accounting(cluster, opt):
    cluster.start("mariadbd")

    def database():
        probe = ["mariadb", f"--defaults-file={cluster.path('etc/client.cnf')}", "slurm_acct_db", "-e", "select 1"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    wait_until(30, "mariadbd answers", database)
    cluster.start("slurmdbd")
    wait_until(30, "slurmdbd answers", lambda: cluster.slurm("sacctmgr", "-n", "list", "cluster").returncode == 0)

    def manage(*argv):
        done = cluster.slurm("sacctmgr", "-i", *argv)
        if done.returncode:
            raise Trouble(f"sacctmgr {' '.join(argv)}: {done.stdout}{done.stderr}")

    manage("add", "cluster", "bessemertest")
    manage("add", "qos", "tiny", "set", f"MaxSubmitJobsPerUser={opt.submit_limit}", "Flags=DenyOnLimit")
    manage("add", "qos", "narrow", "set", "MaxJobsPerUser=1")
    manage("add", "account", "lab", "Cluster=bessemertest", "Description=lab", "Organization=lab")
    manage("modify", "account", "lab", "set", "qos=normal,tiny,narrow", "DefaultQOS=normal")
    for user in {getpass.getuser(), *opt.user}:
        manage("add", "user", user, "Account=lab", "DefaultAccount=lab")
