"""Several processes over one store against a model of what their clients must see, with random interleavings.

`MODEL_EXAMPLES=5000 python -m pytest tests/kernel/test_model.py` looks for longer, and at other examples each time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_tornado.cluster.mailbox import BROADCAST_LOG
from mcp_tornado.cluster.membership import REGISTER
from mcp_tornado.sessions import ClientInfo, SessionError
from tests.kernel.model import ASIDE, Client, Model

PROCESSES = 3
CLIENTS = 3
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))

WHICH = st.integers(0, 11)
"""Which one of those there are, modulo their number."""
PAUSES = st.sampled_from([0, 0, 0.001, 0.004, 0.02, 0.1, 0.1, 0.6, 0.6, 3])
"""Seconds until the next thing happens."""
VERSIONS = st.sampled_from(["2025-11-25", "2025-11-25", "2025-06-18"])
COMMANDS = st.lists(
    st.sampled_from(
        [("say", 1), ("say", 3), ("say", 80), ("say_aside", 2), ("ask", 1), ("ask", 1), ("close", 1), ("finish", 1)]
    ),
    max_size=4,
)
"""What a call is told to do: see `Call.perform`."""
DISTURBANCES = st.sampled_from(["kill", "kill", "drain", "cut off", "cut off", "delete", "sweep", "expire"])
FINAL_SECONDS = 40


def pick(things, which):
    return things[which % len(things)]


class KernelsAgainstModel(RuleBasedStateMachine):
    """What is drawn never depends on what the kernels do: that cannot be repeated to the last detail.

    So there are no preconditions, and a rule for which there is nothing to do does nothing.
    """

    @initialize(seed=st.integers(0, 2**16), processes=st.integers(1, PROCESSES))
    def begin(self, seed, processes):
        self.model = Model(seed)
        self.world = self.model.world
        for _ in range(processes):
            self.world.start()
        self.open_session("2025-11-25", 0)

    # ------------------------------------------------------------------ what there is

    def process(self, which):
        """Return a process: one that takes new work, where there is one; one is started where there is none."""
        if not self.world.processes:
            self.world.start()
        return pick([process for process in self.world.processes if process.serves] or self.world.processes, which)

    def client(self, which):
        """Return a client: one that has a session, mostly."""
        return pick((which < 11 and self.living()) or self.model.clients, which)

    def living(self):
        return [client for client in self.model.clients if not client.may_be_gone()]

    def unanswered(self):
        return [call for call in self.model.calls if call.answer is None and not call.client.gone]

    def running(self):
        return [call for call in self.model.calls if call.runs]

    def pause(self, seconds):
        for client in self.model.clients:
            client.note_business()
        self.world.run(asyncio.sleep(seconds))
        for client in self.model.clients:
            client.note_business()

    # ------------------------------------------------------------------ processes

    @rule(pause=PAUSES)
    def start(self, pause):
        if len(self.world.processes) < PROCESSES:
            self.world.start()
        self.pause(pause)

    @rule(what=DISTURBANCES, which=WHICH, pause=PAUSES)
    def disturb(self, what, which, pause):
        process = self.process(which)
        if what == "kill":
            self.model.lose(process, "killed")
            self.world.run(process.kill())
        elif what == "drain" and process.serves:
            self.model.lose(process, "drained")
            process.leave(grace=which % 4)
        elif what == "cut off":
            self.model.lose(process, "cut off")
            process.cut_off(seconds=1 + 1.5 * which)
        elif what == "delete":
            self.client(which).delete(process)
        elif what == "expire":
            self.pause(75)
        elif what == "sweep" and process.serves:
            process.sweep()
        self.pause(pause)

    @rule(seconds=st.sampled_from([0.5, 1, 5, 15]))
    def pass_time(self, seconds):
        self.pause(seconds)

    # ------------------------------------------------------------------ sessions

    @rule(version=VERSIONS, which=WHICH)
    def open_session(self, version, which):
        process = self.process(which)
        if process.serves and len(self.living()) < CLIENTS:
            creation = process.kernel.create_session({"protocolVersion": version}, ClientInfo())
            try:
                session_id, _ = self.world.run(process.spawn(creation))
            except SessionError:
                assert process.was_cut_off
                return
            Client(self.model, session_id, version)

    @rule(who=WHICH, which=WHICH, anew=st.booleans(), pause=PAUSES)
    def listen(self, who, which, anew, pause):
        self.client(who).listen(self.process(which), anew=anew)
        self.pause(pause)

    @rule(who=WHICH, which=WHICH, wait=st.sampled_from([0, 1, 20]), anew=st.booleans(), pause=PAUSES)
    def receive(self, who, which, wait, anew, pause):
        self.client(who).receive(self.process(which), wait, anew=anew)
        self.pause(pause)

    @rule(which=WHICH, pause=PAUSES)
    def hang_up(self, which, pause):
        connections = [connection for process in self.world.processes for connection in process.connections]
        if connections:
            pick(connections, which).hang_up()
        self.pause(pause)

    # ------------------------------------------------------------------ calls

    @rule(who=WHICH, which=WHICH, background=st.booleans(), commands=COMMANDS, pause=PAUSES)
    def start_call(self, who, which, background, commands, pause):
        call = self.client(who).call(self.process(which), background=background)
        for command, count in commands:
            call.tell(command, count)
        self.pause(pause)

    @rule(which=WHICH, commands=COMMANDS, pause=PAUSES)
    def command(self, which, commands, pause):
        calls = self.running()
        for command, count in commands if calls else ():
            pick(calls, which).tell(command, count)
        self.pause(pause)

    @rule(which=WHICH, where=WHICH, pause=PAUSES)
    def resume(self, which, where, pause):
        calls = [call for call in self.unanswered() if call.chain.last_id is not None and not call.background]
        if calls:
            call = pick(calls, which)
            call.client.resume(call, self.process(where))
        self.pause(pause)

    @rule(which=WHICH, where=WHICH, pause=PAUSES)
    def reply(self, which, where, pause):
        asks = self.model.open_asks()
        if asks:
            pick(asks, which).reply(self.process(where))
        self.pause(pause)

    @rule(which=WHICH, who=WHICH, where=WHICH, pause=PAUSES)
    def forge_reply(self, which, who, where, pause):
        """A client answers what another one was asked."""
        asks = self.model.open_asks()
        if asks and pick(asks, which).call.client is not self.client(who):
            self.client(who).notify(self.process(where), pick(asks, which).message("forged"))
        self.pause(pause)

    @rule(which=WHICH, where=WHICH, by_notification=st.booleans(), pause=PAUSES)
    def cancel(self, which, where, by_notification, pause):
        calls = self.unanswered()
        if calls:
            call = pick(calls, which)
            (call.client.cancel if by_notification else call.client.abort)(call, self.process(where))
        self.pause(pause)

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def sessions_live_as_long_as_they_must(self):
        for client in self.model.clients:
            self.world.run(client.check())

    def teardown(self):
        try:
            if sys.exc_info()[0] is None:
                self.let_everything_come_to_its_end()
        finally:
            self.world.close()

    def let_everything_come_to_its_end(self):
        """Everybody who is owed an answer gets it now."""
        if not any(process.serves for process in self.world.processes):
            self.world.start()
        for second in range(FINAL_SECONDS):
            process = self.process(second)
            for call in self.running():
                if not call.is_owed and not call.must_end:
                    call.client.abort(call, process)  # its client cannot come back for it
                elif not call.must_end and not call.told_to_finish:
                    call.tell("finish")
            for ask in self.model.open_asks():
                ask.reply(process)
            for call in self.model.calls:
                if call.is_owed and not call.background and not call.chain.is_read:
                    call.client.resume(call, process)
            for client in self.living():
                client.receive(process, 1)
                if client.heard.last_id is not None and not client.heard.is_read:
                    client.stop_listening()  # of two that took over at once, the one that it reads was the first
                if not client.listening:
                    client.listen(process, anew=False)
            self.pause(1)
            missing = self.what_is_missing()
            if not missing:
                break
        assert not missing, missing
        for client in self.living():
            self.check_log(self.world.run(self.whole_log(client)))
        self.let_processes_leave()
        if self.world.run(self.left_behind()):
            self.world.start()  # those who were killed last were not missed by anybody yet
            self.pause(90)
            self.let_processes_leave()
        assert self.world.run(self.left_behind()) == []

    def let_processes_leave(self):
        for process in list(self.world.processes):
            process.leave(0)
        self.pause(20)
        assert not self.world.processes

    async def left_behind(self):
        """Return the mailboxes of processes that have ended."""
        keys = self.world.process_keys - {REGISTER, BROADCAST_LOG}
        return [key for key in sorted(keys) if await self.world.store.read(key, None)]

    def what_is_missing(self):
        """Return what clients must have and have not."""
        missing = [f"the answer to {call}" for call in self.model.calls if call.is_owed or call.runs]
        for client in self.living():
            if len(client.listening) != 1:
                missing.append(f"one reader of the stream of client {client.number}: {client.listening}")
            missing += [
                f"what {call} said aside"
                for call in client.calls
                for chain in (client.heard, client.received)
                if "cut off" not in call.excuses and chain.seen[ASIDE, call.number] < call.kept[ASIDE]
            ]
        return missing

    async def whole_log(self, client):
        return await self.world.store.read(client.key, None, limit=100_000)

    def check_log(self, events):
        """Each stream has one answer, and nothing after it."""
        answers = defaultdict(int)
        ended = set()
        for event in events:
            assert event.stream not in ended, f"{event} after the end of its stream"
            if event.final:
                ended.add(event.stream)
            answers[event.stream] += event.message is not None and "method" not in event.message
        assert all(count <= 1 for count in answers.values()), f"answered twice: {answers}"


TestKernelsAgainstModel = KernelsAgainstModel.TestCase
TestKernelsAgainstModel.settings = settings(
    max_examples=EXAMPLES or 300,
    derandomize=not EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
