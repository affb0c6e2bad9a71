# Validates command lines with the engine's own parser and configuration classes, all of them in one process: the import takes
# most of the time. Reads {"engine": "vllm"|"sglang", "sets": [{"argv": [...], "env": {...}}]}; prints one line of JSON per set
# behind MARK, because engines log to the same stream. No device is touched and nothing is loaded.
import contextlib
import dataclasses
import enum
import io
import json
import logging
import os
import sys
import warnings

MARK = "@servelab "
DEPTH = 4


def answer(**members):
    sys.__stdout__.write(MARK + json.dumps(members) + "\n")
    sys.__stdout__.flush()


def plain(value, depth=0):
    """The scalars of a configuration object, section by section."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if type(value).__name__ == "dtype":
        return str(value)
    if depth >= DEPTH:
        return None
    if isinstance(value, dict):
        return {str(key): plain(member, depth + 1) for key, member in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(member, depth + 1) for member in list(value)[:64]]
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        members = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else vars(value)
        shown = {}
        for name in members:
            if not name.startswith("_"):
                with contextlib.suppress(Exception):
                    shown[name] = plain(getattr(value, name), depth + 1)
        return shown
    return None


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        with contextlib.suppress(Exception):
            self.lines.append(record.getMessage()[:500])


def vllm_checker():
    import vllm
    from vllm.entrypoints.cli.serve import cmd_init

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:
        from vllm.utils import FlexibleArgumentParser
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    parser = FlexibleArgumentParser(prog="vllm")
    subparsers = parser.add_subparsers(dest="subparser")
    serve = cmd_init()[0]
    serve.subparser_init(subparsers)

    def parse(argv):
        args = parser.parse_args(["serve", *argv])
        if getattr(args, "model_tag", None) is not None:
            args.model = args.model_tag
        serve.validate(args)
        return args

    def config(args):
        return AsyncEngineArgs.from_cli_args(args).create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)

    return vllm.__version__, parse, config, logging.getLogger("vllm")


def sglang_checker():
    import argparse

    import sglang
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(prog="sglang")
    ServerArgs.add_cli_args(parser)
    return sglang.__version__, parser.parse_args, ServerArgs.from_cli_args, logging.getLogger()


def check(index, entry, parse, config, logger):
    said = Warnings()
    logger.addHandler(said)
    before = dict(os.environ)
    os.environ.update(entry.get("env", {}))
    errors = io.StringIO()
    result = {"index": index, "refused": None, "unchecked": None, "config": None}
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                args = parse(entry["argv"])
            except SystemExit:
                lines = [line for line in errors.getvalue().splitlines() if "error:" in line]
                result["refused"] = lines[-1].strip() if lines else errors.getvalue().strip()[-500:]
            except Exception as error:
                result["refused"] = f"{type(error).__name__}: {error}"
            else:
                try:
                    result["config"] = plain(config(args))
                except SystemExit as error:
                    result["refused"] = f"the engine ended with {error.code}"
                except Exception as error:
                    text = f"{type(error).__name__}: {error}"
                    # What this machine lacks says nothing about the flags.
                    lacks = (
                        "Failed to infer device type",
                        "Repo id must be in the form",
                        "not a valid model identifier",
                        "does not appear to have a file named config.json",
                        "LocalEntryNotFoundError",
                        "OfflineModeIsEnabled",
                        "couldn't connect to",
                        "Invalid repository ID",
                        "No CUDA GPUs are available",
                        "Found no NVIDIA driver",
                    )
                    key = "unchecked" if any(lack in text for lack in lacks) else "refused"
                    result[key] = text[:2000]
    finally:
        os.environ.clear()
        os.environ.update(before)
        logger.removeHandler(said)
    answer(**result, warnings=said.lines[:20])


def main():
    request = json.load(sys.stdin)
    version, parse, config, logger = {"vllm": vllm_checker, "sglang": sglang_checker}[request["engine"]]()
    answer(version=version)
    for index, entry in enumerate(request["sets"]):
        check(index, entry, parse, config, logger)


try:
    main()
except Exception as error:
    answer(error=f"{type(error).__name__}: {error}")
    sys.exit(1)
