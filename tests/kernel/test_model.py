"""A simulated cluster against the reference model, with random interleavings.

`MODEL_EXAMPLES=5000 python -m pytest tests/kernel/test_model.py` runs more examples, which differ from run to run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_tornado.cluster.mailbox import BROADCAST_LOG
from mcp_tornado.cluster.membership import REGISTER
from mcp_tornado.sessions import ClientInfo, Event, SessionError
from tests.kernel.model import Model

MAX_PROCESSES = 3
MAX_LIVE_CLIENTS = 3
MODEL_EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
EVENT_LIMIT = 100_000
"""More events than any session has."""

FINAL_SECONDS = 40
"""How long the clients may need at the end to receive everything."""
SESSION_EXPIRY_SECONDS = 75
"""Longer than the idle timeout."""
SHUTDOWN_SECONDS = 20
"""Longer than a process needs to end."""
DEATH_DETECTION_SECONDS = 90
"""Longer than a new process needs to find dead processes and to remove their mailboxes."""

INDEXES = st.integers(0, 11)
"""Which one of the existing processes, clients or calls is meant, modulo their number."""
LAST_INDEX = 11
PAUSES = st.sampled_from([0, 0, 0.001, 0.004, 0.02, 0.1, 0.1, 0.6, 0.6, 3])
"""Seconds until the next step."""
VERSIONS = st.sampled_from(["2025-11-25", "2025-11-25", "2025-06-18"])
COMMANDS = st.lists(
    st.sampled_from(
        [
            ("notify", 1),
            ("notify", 3),
            ("notify", 80),
            ("notify_standalone", 2),
            ("elicit", 1),
            ("elicit", 1),
            ("close_stream", 1),
            ("finish", 1),
        ]
    ),
    max_size=4,
)
"""The commands that a call executes; see `Call.command`."""
FAULTS = st.sampled_from(
    ["kill", "kill", "drain", "partition", "partition", "terminate session", "sweep", "expire sessions"]
)


def pick(candidates, index):
    return candidates[index % len(candidates)]


class KernelMachine(RuleBasedStateMachine):
    """Drives the processes and the clients of a simulated cluster.

    What hypothesis draws must not depend on what the kernels do, because that cannot be repeated in every detail. So
    the rules have no preconditions. A rule that cannot do anything does nothing.
    """

    @initialize(seed=st.integers(0, 2**16), process_count=st.integers(1, MAX_PROCESSES))
    def begin(self, seed, process_count):
        self.model = Model(seed)
        self.cluster = self.model.cluster
        for _ in range(process_count):
            self.cluster.start()
        self.create_session("2025-11-25", 0)

    # ------------------------------------------------------------------ helpers of the rules

    def process(self, index):
        """Return a process, if possible one that accepts new work; start one if there is none."""
        if not self.cluster.processes:
            self.cluster.start()
        accepting = [process for process in self.cluster.processes if process.accepts_work]
        return pick(accepting or self.cluster.processes, index)

    def client(self, index):
        """Return a client. Unless the index is the last one, it has a live session, if possible."""
        return pick((index < LAST_INDEX and self.model.live_clients()) or self.model.clients, index)

    def pause(self, seconds):
        for client in self.model.clients:
            client.note_activity()
        self.cluster.run(asyncio.sleep(seconds))
        for client in self.model.clients:
            client.note_activity()

    # ------------------------------------------------------------------ processes

    @rule(pause=PAUSES)
    def start_process(self, pause):
        if len(self.cluster.processes) < MAX_PROCESSES:
            self.cluster.start()
        self.pause(pause)

    @rule(fault=FAULTS, index=INDEXES, pause=PAUSES)
    def inject_fault(self, fault, index, pause):
        process = self.process(index)
        if fault == "kill":
            self.model.allow_failures(process, "killed")
            self.cluster.run(process.kill())
        elif fault == "drain" and process.accepts_work:
            self.model.allow_failures(process, "drained")
            process.terminate(grace=index % 4)
        elif fault == "partition":
            self.model.allow_failures(process, "partitioned")
            process.partition(seconds=1 + 1.5 * index)
        elif fault == "terminate session":
            self.client(index).terminate(process)
        elif fault == "expire sessions":
            self.pause(SESSION_EXPIRY_SECONDS)
        elif fault == "sweep" and process.accepts_work:
            process.sweep()
        self.pause(pause)

    @rule(seconds=st.sampled_from([0.5, 1, 5, 15]))
    def pass_time(self, seconds):
        self.pause(seconds)

    # ------------------------------------------------------------------ sessions and their streams

    @rule(version=VERSIONS, process_index=INDEXES)
    def create_session(self, version, process_index):
        process = self.process(process_index)
        if process.accepts_work and len(self.model.live_clients()) < MAX_LIVE_CLIENTS:
            creation = process.kernel.create_session({"protocolVersion": version}, ClientInfo())
            try:
                session_id, _ = self.cluster.run(process.spawn(creation))
            except SessionError:
                assert process.was_partitioned
                return
            self.model.add_client(session_id)

    @rule(client_index=INDEXES, process_index=INDEXES, from_start=st.booleans(), pause=PAUSES)
    def open_standalone(self, client_index, process_index, from_start, pause):
        self.client(client_index).open_standalone(self.process(process_index), from_start=from_start)
        self.pause(pause)

    @rule(
        client_index=INDEXES,
        process_index=INDEXES,
        wait=st.sampled_from([0, 1, 20]),
        from_start=st.booleans(),
        pause=PAUSES,
    )
    def poll(self, client_index, process_index, wait, from_start, pause):
        self.client(client_index).poll(self.process(process_index), wait, from_start=from_start)
        self.pause(pause)

    @rule(index=INDEXES, pause=PAUSES)
    def disconnect(self, index, pause):
        connections = [connection for process in self.cluster.processes for connection in process.connections]
        if connections:
            pick(connections, index).disconnect()
        self.pause(pause)

    # ------------------------------------------------------------------ calls

    @rule(client_index=INDEXES, process_index=INDEXES, is_background=st.booleans(), commands=COMMANDS, pause=PAUSES)
    def start_call(self, client_index, process_index, is_background, commands, pause):
        call = self.client(client_index).call(self.process(process_index), is_background=is_background)
        for command, count in commands:
            call.command(command, count)
        self.pause(pause)

    @rule(index=INDEXES, commands=COMMANDS, pause=PAUSES)
    def command_call(self, index, commands, pause):
        calls = self.model.running_calls()
        for command, count in commands if calls else ():
            pick(calls, index).command(command, count)
        self.pause(pause)

    @rule(index=INDEXES, process_index=INDEXES, pause=PAUSES)
    def resume_call(self, index, process_index, pause):
        calls = [
            call
            for call in self.model.unanswered_calls()
            if call.stream.last_event_id is not None and not call.is_background
        ]
        if calls:
            call = pick(calls, index)
            self.model.client_of(call).resume(call, self.process(process_index))
        self.pause(pause)

    @rule(index=INDEXES, process_index=INDEXES, pause=PAUSES)
    def reply(self, index, process_index, pause):
        elicitations = self.model.open_elicitations()
        if elicitations:
            elicitation = pick(elicitations, index)
            self.model.client_of(elicitation.call).reply(elicitation, self.process(process_index))
        self.pause(pause)

    @rule(index=INDEXES, client_index=INDEXES, process_index=INDEXES, pause=PAUSES)
    def forge_reply(self, index, client_index, process_index, pause):
        """A client replies to an elicitation of another client."""
        elicitations = self.model.open_elicitations()
        if elicitations:
            elicitation, client = pick(elicitations, index), self.client(client_index)
            if self.model.client_of(elicitation.call) is not client:
                client.notify(self.process(process_index), elicitation.reply("forged"))
        self.pause(pause)

    @rule(index=INDEXES, process_index=INDEXES, by_notification=st.booleans(), pause=PAUSES)
    def cancel_call(self, index, process_index, by_notification, pause):
        calls = self.model.unanswered_calls()
        if calls:
            call = pick(calls, index)
            client = self.model.client_of(call)
            (client.cancel if by_notification else client.abort)(call, self.process(process_index))
        self.pause(pause)

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def check_sessions(self):
        for client in self.model.clients:
            self.cluster.run(client.session.check())

    def teardown(self):
        try:
            if sys.exc_info()[0] is None:
                self.check_end()
        finally:
            self.cluster.close()

    def check_end(self):
        """Check that every client can receive everything, and that ended processes leave nothing in the store."""
        missing = []
        for second in range(FINAL_SECONDS):
            self.complete_exchanges(self.process(second))
            self.pause(1)
            missing = self.model.missing()
            if not missing:
                break
        assert not missing, missing
        for client in self.model.live_clients():
            events = self.cluster.run(self.cluster.store.read(client.session.key, None, limit=EVENT_LIMIT))
            self.check_event_log(events)
        self.terminate_processes()
        if self.cluster.run(self.remaining_process_keys()):
            self.cluster.start()  # no process has noticed yet that those killed last are dead
            self.pause(DEATH_DETECTION_SECONDS)
            self.terminate_processes()
        assert self.cluster.run(self.remaining_process_keys()) == []

    def complete_exchanges(self, process):
        """Send to this process the requests that the clients still need to receive everything."""
        for call in self.model.running_calls():
            if not call.is_answer_due and not call.cancel_was_accepted:
                self.model.client_of(call).abort(call, process)  # the client cannot resume its stream
            elif not call.cancel_was_accepted and not call.finish_was_commanded:
                call.command("finish")
        for elicitation in self.model.open_elicitations():
            self.model.client_of(elicitation.call).reply(elicitation, process)
        for call in self.model.calls:
            if call.is_answer_due and not call.is_background and not call.stream.is_open:
                self.model.client_of(call).resume(call, process)
        for client in self.model.live_clients():
            client.poll(process, 1)
            stream = client.standalone_stream
            if stream.last_event_id is not None and not stream.is_open:
                # Two connections have resumed the stream at the same time. The one that is left is not the one that
                # the client reads.
                client.close_standalone()
            if not client.standalone_connections:
                client.open_standalone(process, from_start=False)

    def terminate_processes(self):
        for process in self.cluster.processes:
            process.terminate(grace=0)
        self.pause(SHUTDOWN_SECONDS)
        assert self.cluster.processes == []

    async def remaining_process_keys(self):
        """Return the keys of the mailboxes that still have events."""
        keys = self.cluster.process_keys - {REGISTER, BROADCAST_LOG}
        return [key for key in sorted(keys) if await self.cluster.store.read(key, None)]

    def check_event_log(self, events: Sequence[Event]):
        """Check that each stream has at most one answer, and no event after its final one."""
        answer_counts = defaultdict(int)
        final_streams = set()
        for event in events:
            assert event.stream not in final_streams, f"{event} after the final event of its stream"
            if event.final:
                final_streams.add(event.stream)
            answer_counts[event.stream] += event.message is not None and "method" not in event.message
        assert all(count <= 1 for count in answer_counts.values()), f"answered more than once: {answer_counts}"


TestKernelMachine = KernelMachine.TestCase
TestKernelMachine.settings = settings(
    max_examples=MODEL_EXAMPLES or 300,
    derandomize=not MODEL_EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
