"""`starcoder serve`: Ray and Serve from start to end, on this machine or in the cluster at RAY_ADDRESS."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.cluster import proxy
from deployments.cluster.node_watch import ENDS_WITH_GCS
from deployments.cluster.temporary import private_directory, remove, remove_stale
from deployments.command import signals
from deployments.command.checks import NO_TOKEN, check, has_token
from deployments.command.console import Console
from deployments.command.front import haproxy_command, http_options, local_front, local_http_options
from deployments.command.last_answers import wait_for_answers
from deployments.command.processes import adopt_orphans, end_descendants
from deployments.command.ray_processes import keep_few
from deployments.command.ray_servers import dead_servers, end_streams, shut_down, start_node
from deployments.command.ready import answer, forward, ready_message, said_of
from deployments.command.serve_says import failure, has_application, serve_runs
from deployments.command.signals import Stopped
from deployments.settings import Settings
from model.config import ConfigError
from monitoring import logs

if TYPE_CHECKING:
    from ray import serve

POLL_S = 0.2
WATCH_S = 1.0
LOST_S = 30.0
"""A cluster that was joined and has not answered for so long is given up; a head may restart in less."""
SERVE_STOP_S = 15.0
ANSWER_S = 10.0
RAY_STOP_S = 5.0
STREAMS_END_S = 2.0
"""A busy ingress tells its clients in a tenth of this that its node is lost."""
LAST_ANSWERS_S = 5.0
"""For what is still to be written when the time for it is over, since engines may need all of it."""
OBJECT_STORE_BYTES = 256 << 20  # nothing of size goes through it

_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Who reaches Ray's servers runs code: they want the token of this user, which Ray makes and keeps at home.
    "RAY_AUTH_MODE": "token",
    # The one switch that makes Ray's own servers listen on loopback only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray would have engines make way for everything else on the machine.
    "RAY_worker_niceness": "0",
    "GLOG_minloglevel": "2",
    # A server that nobody uses should not keep a laptop awake: with these it takes a third less.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
    # Workers end at their first look after their raylet has: ingresses are telling their clients then.
    "RAY_raylet_death_check_interval_milliseconds": "10000",
    ENDS_WITH_GCS: "1",
    # A proxy that is not ready after five seconds is killed, which ends the start: on a busy machine it needs longer.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # No load balancer has to learn of a draining proxy: it is drained as soon as its last answer is written.
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.001",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
}


Build = Callable[[Settings], "serve.Application"]

# Ray's own series, for whoever scrapes ours. A gauge that is not set again within two of Ray's intervals is forgotten:
# what reports least often of what the boards show does so every 5 s; by default, Serve tells of health every 10 s.
_RAY_METRICS = {
    "RAY_enable_metrics_collection": "1",
    "RAY_metrics_report_interval_ms": "5000",
    "RAY_SERVE_STATUS_GAUGE_REPORT_INTERVAL_S": "2",
}


class StartError(RuntimeError):
    """The application did not come up; the message says why."""


def serve_forever(settings: Settings, build: Build | None = None) -> int:
    """Serve until a signal comes; every process, port and directory is gone on return. Returns the exit code.

    build: makes the application; `deployments.app.build` if not given.
    Raises ConfigError before anything is started, StartError after it has been cleaned up; where the log is JSON, both
    are lines of it instead.
    """
    console = Console(settings.log_format, keep_text=settings.log_text)
    try:
        with console.alone():
            return _serve(settings, console, build)
    except Exception as error:
        if not console.as_json:
            raise
        expected = isinstance(error, ConfigError | StartError)
        console.say(str(error), "server.failed", "error", exception=None if expected else logs.describe(error))
        return 2 if isinstance(error, ConfigError) else 1
    finally:
        console.flush()
        if dead_servers():
            sys.stdout.flush()
            os._exit(1)  # Ray would be shut down at the interpreter's end, with the same hazards


def _serve(settings: Settings, console: Console, build: Build | None) -> int:
    joined = os.environ.get("RAY_ADDRESS")
    started_at = time.monotonic()
    check(settings, console, local=not joined)
    with signals.obeyed():
        server = Server(settings, console, joined, build)
        try:
            server.start()
            seconds = time.monotonic() - started_at
            by = forward(settings)
            ready = ready_message(settings, seconds, by)
            if console.as_json:
                ready = ready.partition(" Try:")[0]
            console.say(ready, "server.ready", seconds=round(seconds, 2), **said_of(by))
            while (lost := server.lost()) is None:
                time.sleep(WATCH_S)
            console.say(f"Ending: {lost}.", "server.lost", "error")
            return 1
        except Stopped:
            console.say("Stopping: open streams may finish. Once more to stop at once.", "server.stopping")
            return 0
        finally:
            server.stop()
            console.say("Stopped.", "server.stopped")


class Server:
    """Ray, Serve and the application. `stop` undoes whatever part of `start` was done."""

    def __init__(
        self, settings: Settings, console: Console, address: str | None = None, build: Build | None = None
    ) -> None:
        # Whatever the console shows, it reads JSON; a file is written as the settings say.
        self.settings = settings if settings.log_file else settings.model_copy(update={"log_format": "json"})
        self.address = address
        self._console = console
        self._build = build
        self._directory: Path | None = None
        self._owns_serve = True
        self._owns_application = False
        self._asked_at = 0.0
        self._answered_at = 0.0

    def lost(self) -> str | None:
        """Why there is nothing left to wait for, or None: Ray's servers died, or somebody deleted the application."""
        if dead := dead_servers():
            return f"Ray's {', '.join(dead)} ended"
        now = time.monotonic()
        if self.address is None or now - self._asked_at < 5 * WATCH_S:
            return None
        self._asked_at = now
        self._answered_at = self._answered_at or now
        found: list[bool] = []
        if bounded(lambda: found.append(has_application()), ANSWER_S) and found:
            self._answered_at = now
            return None if found[0] else "somebody deleted the application"
        return f"the cluster at {self.address} is gone" if now - self._answered_at > LOST_S else None

    def start(self) -> None:
        """Return when the application answers. Raises StartError.

        What Ray and Serve print meanwhile is kept back, except for debugging: StartError says what matters of it.
        """
        with contextlib.ExitStack() as stack:
            self._console.show_foreign = self.settings.log_level == "debug"
            if not self._console.show_foreign:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            self._start()
        self._console.show_foreign = True

    def _start(self) -> None:
        step = self._console.step
        with step("starting Ray" if self.address is None else f"joining Ray at {self.address}"):
            self._start_ray()
        with step("starting Serve"):
            self._start_serve()
        with step("starting the engine") as say:
            self._deploy(say)

    def stop(self) -> None:
        """End everything. A second signal, or a dead Ray, cuts the waiting for open streams short."""
        # Ray prints to stdout about the calls that its own end interrupts.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            self._stop()

    def _stop(self) -> None:
        with contextlib.suppress(Stopped):
            self._stop_application()
        with signals.ignored():
            # Without its servers Ray can hang here; and a thread that still waits for them would then end this process.
            if not dead_servers():
                bounded(shut_down, RAY_STOP_S)
            if self.address is None:
                end_descendants()
                remove_stale()
            if self._directory is not None:
                remove(self._directory)

    def _start_ray(self) -> None:
        settings = self.settings
        if self.address is None:
            adopt_orphans()
            remove_stale()
            self._directory = private_directory()
            if settings.metrics_dir is None:
                self.settings = settings.model_copy(update={"metrics_dir": self._directory / "metrics"})
            environment = _RAY_ENVIRONMENT | (_RAY_METRICS if settings.metrics_port is not None else {})
            os.environ.update({name: os.environ.get(name, value) for name, value in environment.items()})
            os.environ.update(proxy.environment(self.settings, local_front(self.settings, self._directory)))
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            if has_token():
                os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray

        from deployments.app import cpus_needed

        options: dict[str, Any] = {"address": self.address}
        if self.address is None:
            options = {
                "address": "local",
                "include_dashboard": False,
                "num_cpus": max(os.cpu_count() or 1, round(cpus_needed(settings) + 0.5)),
                "object_store_memory": OBJECT_STORE_BYTES,
                # Ray opens its directory to everybody: it gets one in ours, which nobody else can enter
                "_temp_dir": f"{self._directory}/r",
            }
            keep_few()
        try:
            start_node(lambda: ray.init(**options, logging_level="ERROR", log_to_driver=True, configure_logging=True))
        except Exception as error:  # on a busy machine Ray times out with nothing more telling than Exception
            cause = str(error.__cause__ or error).strip().splitlines()[-1]
            hint = "" if self.address is None or has_token() else NO_TOKEN
            raise StartError(f"Ray does not start or cannot be joined: {cause}{hint}") from error
        if self._directory is not None and self._directory.stat().st_mode & 0o077:
            raise StartError(f"{self._directory} is open to other users, and holds the log and the sockets")
        self._console.listen_to_workers()
        signals.listen()  # Ray has put its own handler for SIGTERM there

    def _start_serve(self) -> None:
        import logging

        from ray import serve

        from deployments.app import logging_config

        config = logging_config(self.settings)
        logging.getLogger("ray.serve").setLevel(config.log_level)
        self._owns_serve = not serve_runs()
        if not self._owns_serve:
            self._check_serve()
        serve.start(
            http_options=self._http_options(),
            proxy_location="HeadOnly" if self.address is None else "EveryNode",
            logging_config=config,
        )

    def _http_options(self) -> dict[str, str | int]:
        if self.address is None:
            return local_http_options(self.settings)
        return http_options(self.settings, behind_haproxy=haproxy_command(self.settings) is not None)

    def _check_serve(self) -> None:
        """Raise StartError where this cluster serves already what would be replaced, or at another address."""
        from ray.serve.context import _get_global_client

        from deployments.app import APP_NAME

        if has_application():
            raise StartError(
                f"this cluster has an application {APP_NAME!r} already: end the command that serves it, or delete it"
            )
        running = _get_global_client().http_config
        if running.ssl_certfile != self._http_options().get("ssl_certfile"):
            raise StartError("Serve speaks TLS with another certificate in this cluster, or with none: shut it down")
        if (running.host, running.port) != (self.settings.host, self.settings.port):
            raise StartError(
                f"Serve listens at {running.host}:{running.port} in this cluster, not at {self.settings.host}:"
                f"{self.settings.port}: give these as host and port, or shut Serve down"
            )

    def _deploy(self, say: Callable[[str], None]) -> None:
        from ray import serve
        from ray.serve.schema import ApplicationStatus

        from deployments.app import APP_NAME, build
        from deployments.cluster import progress, roster

        progress.clear()
        roster.say_serving()
        self._owns_application = True
        target = serve.RunTarget((self._build or build)(self.settings), name=APP_NAME)
        serve.run_many([target], wait_for_applications_running=False)
        deadline = time.monotonic() + self.settings.start_timeout_s
        while time.monotonic() < deadline:
            application = serve.status().applications.get(APP_NAME)
            if application is None:
                raise StartError("the application was deleted by somebody else")
            if application.status == ApplicationStatus.RUNNING and answer(self.settings, "/health") is not None:
                return
            if (why := failure(application)) is not None:
                raise StartError(why)
            if (share := progress.read()) is not None:
                say(f"loading weights: {share:.0%}")
            time.sleep(POLL_S)
        raise StartError(f"the engine did not start within {self.settings.start_timeout_s:g} s")

    def _stop_application(self) -> None:
        """Delete the application first: the HTTP proxy lives on while open streams finish."""
        if "ray" not in sys.modules:
            return
        import ray
        from ray import serve

        from deployments.app import APP_NAME
        from deployments.cluster import roster

        def drain(seconds: float) -> bool:
            if self.address is None and self._owns_application:
                with contextlib.suppress(Exception):
                    return wait_for_answers(self.settings, seconds)
            return True

        def stop() -> None:
            until = time.monotonic() + self.settings.drain_timeout_s
            if self._owns_application:
                with contextlib.suppress(Exception):
                    roster.say_draining(self.settings.drain_timeout_s + SERVE_STOP_S)
            # Streams that end before anything is taken down cannot be hurt by how it is taken down.
            drain(self.settings.drain_timeout_s / 2)
            if self._owns_application:
                with contextlib.suppress(Exception):
                    serve.delete(APP_NAME)
                    roster.say_serving()  # whoever serves in this cluster next
            if not drain(max(LAST_ANSWERS_S, until - time.monotonic())):
                told = "Answers that their clients have not read by now are cut off."
                self._console.say(told, "server.answers_cut", "warning")
            if self._owns_serve:
                with contextlib.suppress(Exception):
                    serve.shutdown()

        if ray.is_initialized():
            # Ray ends a process that asks it something when its servers have died a while ago, whatever is left to do.
            seconds = 0.0 if dead_servers() else self.settings.drain_timeout_s + SERVE_STOP_S
            done = seconds > 0 and bounded(stop, seconds, until=lambda: bool(dead_servers()))
            if not done and (dead := dead_servers()):
                told = f"Not waiting for open streams: Ray's {', '.join(dead)} ended."
                self._console.say(told, "server.ray_ended", "error")
                bounded(end_streams, STREAMS_END_S)


def bounded(work: Callable[[], None], seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Do `work` in a thread, but wait for it only so long, or until `until` says so. True when it was done."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline and not until():
        thread.join(POLL_S)
    return not thread.is_alive()
