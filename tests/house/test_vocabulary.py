"""Our words are AWS's words: enums and members compared with the service model that clients have."""

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from clary import settings
from clary.cli.main import COMMANDS
from clary.domain.endpoint import EndpointStatus
from clary.domain.routing import RoutingStrategy
from clary.domain.transform_job import TransformJobStatus
from clary.domain.transform_plan import BatchStrategy, SplitType
from clary.services.sagemaker import endpoint_configs, endpoints, models, tags, transform_jobs
from clary.wire import catalog


def enum_of(shape: str) -> set[str]:
    return set(catalog.service("sagemaker").shape_for(shape).enum)


def test_endpoint_status_is_the_models() -> None:
    assert {state.value for state in EndpointStatus} == enum_of("EndpointStatus")


def test_batch_transforms_words_are_the_models() -> None:
    assert {state.value for state in TransformJobStatus} == enum_of("TransformJobStatus")
    assert {kind.value for kind in SplitType} == enum_of("SplitType")
    assert {strategy.value for strategy in BatchStrategy} == enum_of("BatchStrategy")


def test_routing_strategies_are_the_models_less_those_refused_by_name() -> None:
    served = {strategy.value for strategy in RoutingStrategy}
    assert enum_of("RoutingStrategy") - served == {"KV_AWARE", "PREFIX_AWARE"}


def test_handlers_bear_the_operations_names() -> None:
    known = set(catalog.service("sagemaker").operation_names)
    for room in (
        models.Models,
        endpoint_configs.EndpointConfigs,
        endpoints.Endpoints,
        transform_jobs.TransformJobs,
        tags.Tags,
    ):
        source = inspect.getsource(room.__init__)
        for operation in (word for word in source.split('"') if word[:1].isupper()):
            assert operation in known
            snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).lstrip("_")
            assert hasattr(room, snake), f"{room.__name__} lacks {snake}"


def test_every_setting_has_its_sentence() -> None:
    for row in fields(settings.Settings):
        sentence = row.metadata["sentence"]
        assert sentence.endswith("."), row.name
        assert len(sentence.split()) > 3, row.name


def test_every_setting_and_command_is_documented() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "settings.md").read_text()
    for row in fields(settings.Settings):
        assert f"| `{row.name}` | `{row.default!r}` | {row.metadata['sentence']} |" in page, row.name
    readme = (root / "README.md").read_text()
    for name in COMMANDS:
        assert f"clary {name}" in readme, name


def test_starting_needs_no_client_of_the_api() -> None:
    """`clary up` is the first thing that anybody waits for."""
    code = "import sys, clary.cli.main, clary.cli.daemon; print(sorted({'botocore', 'sqlalchemy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
