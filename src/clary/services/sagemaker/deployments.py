"""An endpoint configuration and its models, as stored, to the snapshot that a deployment is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from clary.domain.asynchronous import AsyncConfig
from clary.domain.capture import INPUT, INPUT_AND_OUTPUT, OUTPUT, Capture
from clary.domain.component import HostVariant
from clary.domain.containers import names
from clary.domain.endpoint import Container, DataSource, Deployment, Desired, Observed, Serverless, Variant
from clary.domain.errors import NotFound
from clary.domain.names import Place
from clary.domain.routing import RoutingStrategy
from clary.services.sagemaker import endpoint_configs, models
from clary.store.codec import decode
from clary.store.resources import Record, find, new_deployment_number


def desired_of(record: Record) -> Desired:
    """What is wanted of a stored endpoint or inference component."""
    return decode(Desired, record.desired)


def observed_of(record: Record) -> Observed:
    """What was seen of one."""
    return decode(Observed, record.observed)


def snapshot(connection: Connection, place: Place, config_name: str, resource_uid: int, asked_at: str) -> Deployment:
    """The deployment of a configuration as it and its models stand now, under a fresh number.

    Raises: NotFound when the configuration or one of its models has gone.
    """
    config = find(connection, endpoint_configs.KIND, place, config_name)
    if config is None:
        raise NotFound(endpoint_configs.KIND, place.arn(endpoint_configs.KIND, config_name))
    variants, hosts = [], []
    for stored in config.desired["ProductionVariants"]:
        if "ModelName" not in stored:
            hosts.append(_host(stored))
            continue
        model = find(connection, models.KIND, place, stored["ModelName"])
        if model is None:
            raise NotFound(models.KIND, place.arn(models.KIND, stored["ModelName"]))
        variants.append(_variant(stored, model))
    number = new_deployment_number(connection, resource_uid)
    return Deployment(
        number,
        config.name,
        tuple(variants),
        asked_at,
        async_config(config.desired),
        capture(config.desired),
        hosts=tuple(hosts),
    )


def capture(stored: Mapping[str, Any]) -> Capture | None:
    """DataCaptureConfig of a stored endpoint configuration, where it is switched on."""
    asked = stored.get("DataCaptureConfig", {})
    if not asked.get("EnableCapture"):
        return None
    modes = {option["CaptureMode"] for option in asked["CaptureOptions"]}
    types = asked.get("CaptureContentTypeHeader", {})
    return Capture(
        destination=asked["DestinationS3Uri"].rstrip("/"),
        sampling=asked["InitialSamplingPercentage"] / 100,
        input=bool(modes & {INPUT, INPUT_AND_OUTPUT}),
        output=bool(modes & {OUTPUT, INPUT_AND_OUTPUT}),
        csv_types=tuple(one.lower() for one in types.get("CsvContentTypes", ())),
        json_types=tuple(one.lower() for one in types.get("JsonContentTypes", ())),
    )


def async_config(stored: Mapping[str, Any]) -> AsyncConfig | None:
    """AsyncInferenceConfig of a stored endpoint configuration."""
    asked = stored.get("AsyncInferenceConfig")
    if not asked:
        return None
    output = asked["OutputConfig"]
    told = output.get("NotificationConfig", {})
    return AsyncConfig(
        output_path=output["S3OutputPath"].rstrip("/"),
        failure_path=output.get("S3FailurePath", "").rstrip("/"),
        success_topic=told.get("SuccessTopic", ""),
        error_topic=told.get("ErrorTopic", ""),
        include_response_in=tuple(told.get("IncludeInferenceResponseIn", ())),
        max_concurrent=asked.get("ClientConfig", {}).get("MaxConcurrentInvocationsPerInstance", 0),
    )


def _variant(stored: Mapping[str, Any], model: Record) -> Variant:
    serverless = stored.get("ServerlessConfig")
    containers = containers_of(model)
    return Variant(
        name=stored["VariantName"],
        model_name=model.name,
        container=containers[0],
        further=containers[1:],
        mode=models.mode_of(model.desired),
        role_arn=model.desired.get("ExecutionRoleArn", ""),
        instance_type=stored.get("InstanceType", ""),
        instance_count=stored.get("InitialInstanceCount", 1) if serverless is None else 0,
        weight=stored["InitialVariantWeight"],
        serverless=None
        if serverless is None
        else Serverless(
            serverless["MemorySizeInMB"], serverless["MaxConcurrency"], serverless.get("ProvisionedConcurrency", 0)
        ),
        # 3 min for serverless (serverless guide), 8 min otherwise (container contract).
        startup_timeout_s=stored.get("ContainerStartupHealthCheckTimeoutInSeconds", 180 if serverless else 480),
        volume_gib=stored.get("VolumeSizeInGB", 5 if serverless else 30),
        strategy=_strategy(stored),
        network_isolation=model.desired.get("EnableNetworkIsolation", False),
    )


def containers_of(model: Record) -> tuple[Container, ...]:
    """The containers of a stored model, in order; of several, each under its name."""
    stored = models.containers(model.desired)
    if len(stored) == 1:
        return (container_of_stored(stored[0]),)
    hostnames = names([one.get("ContainerHostname", "") for one in stored])
    return tuple(replace(container_of_stored(one), hostname=name) for one, name in zip(stored, hostnames, strict=True))


def _host(stored: Mapping[str, Any]) -> HostVariant:
    """A variant without a ModelName."""
    scaling = stored.get("ManagedInstanceScaling", {})
    managed = scaling.get("Status") == "ENABLED"
    count = stored["InitialInstanceCount"]
    return HostVariant(
        name=stored["VariantName"],
        instance_type=stored["InstanceType"],
        instance_count=count,
        min_instances=scaling.get("MinInstanceCount", count) if managed else 0,
        max_instances=scaling.get("MaxInstanceCount", count) if managed else 0,
        weight=stored["InitialVariantWeight"],
        strategy=_strategy(stored),
    )


def _strategy(stored: Mapping[str, Any]) -> RoutingStrategy:
    asked = stored.get("RoutingConfig", {}).get("RoutingStrategy", RoutingStrategy.LEAST_OUTSTANDING_REQUESTS)
    return RoutingStrategy(asked)


def container_of_stored(stored: Mapping[str, Any]) -> Container:
    """A ContainerDefinition."""
    sources = [
        DataSource(
            uri=source["S3Uri"],
            compressed=source.get("CompressionType", "None") == "Gzip",
            prefix=source.get("S3DataType") == "S3Prefix",
            channel=source["ChannelName"],
        )
        for source in models.data_sources(stored)
    ]
    return Container(
        image=stored["Image"],
        data=next((source for source in sources if not source.channel), None),
        additional_data=tuple(source for source in sources if source.channel),
        environment=dict(stored.get("Environment", {})),
        hostname=stored.get("ContainerHostname", ""),
        multi_model=models.is_multi_model(stored),
        cache_models=stored.get("MultiModelConfig", {}).get("ModelCacheSetting", "Enabled") == "Enabled",
    )
