"""CreateEndpointConfig, DescribeEndpointConfig, ListEndpointConfigs, DeleteEndpointConfig."""

from __future__ import annotations

from collections.abc import Mapping

from clary.domain.containers import ExecutionMode
from clary.domain.errors import Invalid, Unsupported
from clary.domain.names import parse_s3_uri
from clary.domain.prices import PriceBook
from clary.domain.routing import RoutingStrategy
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.services.sagemaker import models
from clary.services.sagemaker.listing import query_of
from clary.store.resources import Record, Resources

KIND = "endpoint-config"
SERVERLESS_MEMORY_MIB = (1024, 2048, 3072, 4096, 5120, 6144)
# Members whose silent loss would be a lie about safety or results; served by later capabilities, refused until then.
REFUSED = {
    "ShadowProductionVariants": "shadow variants are not served yet",
    "ExplainerConfig": "explanations are not served",
    "KmsKeyId": "data is not encrypted with KMS keys here; leave KmsKeyId out",
}
RECORDED = (
    "VpcConfig",
    "EnableNetworkIsolation",
    "ExecutionRoleArn",
    "MetricsConfig",
    "DataCaptureConfig",
    "AsyncInferenceConfig",
)


class EndpointConfigs:
    """The endpoint configuration operations."""

    def __init__(self, resources: Resources, prices: PriceBook) -> None:
        self._resources = resources
        self._prices = prices
        self.operations: Mapping[str, Handler] = {
            "CreateEndpointConfig": self.create_endpoint_config,
            "DescribeEndpointConfig": self.describe_endpoint_config,
            "ListEndpointConfigs": self.list_endpoint_configs,
            "DeleteEndpointConfig": self.delete_endpoint_config,
        }

    async def create_endpoint_config(self, context: Context, request: Members) -> Members:
        name = request["EndpointConfigName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:CreateEndpointConfig", arn)
        for member, why in REFUSED.items():
            if request.get(member):
                raise Unsupported(member, why)
        if asked := request.get("DataCaptureConfig"):
            _check_capture(context, asked, "AsyncInferenceConfig" in request)
        if role := request.get("ExecutionRoleArn"):
            context.authorize("iam:PassRole", role)
        variants = [self._variant(variant) for variant in request["ProductionVariants"]]
        names = [variant["VariantName"] for variant in variants]
        for variant_name in names:
            if names.count(variant_name) > 1:
                raise Invalid("VariantName", f'The variant name "{variant_name}" was non-unique within the request.')
        if len(variants) > 1 and any("ServerlessConfig" in variant for variant in variants):
            raise Invalid("ServerlessConfig", "A serverless endpoint has exactly one production variant.")
        if asked := request.get("AsyncInferenceConfig"):
            _check_async(context, asked, variants)
        hosts = [variant["VariantName"] for variant in variants if "ModelName" not in variant]
        if hosts:
            _check_hosts(request, variants, hosts)
        for variant in variants:
            if "ModelName" not in variant:
                continue
            model = await self._resources.get(models.KIND, context.place, variant["ModelName"])
            self._fits(variant, model)
            if "AsyncInferenceConfig" in request and models.mode_of(model.desired) is ExecutionMode.DIRECT:
                raise Invalid(
                    "AsyncInferenceConfig",
                    f"Model {model.name} runs its containers in Mode Direct, and InvokeEndpointAsync has no "
                    "TargetContainerHostname to name one.",
                )
            if "AsyncInferenceConfig" in request and models.holds_many(model):
                raise Invalid(
                    "AsyncInferenceConfig",
                    f"Model {model.name} is MultiModel, and InvokeEndpointAsync has no TargetModel to name one of its "
                    "models.",
                )
        await self._resources.create(
            KIND,
            context.place,
            name,
            {"ProductionVariants": variants} | {key: request[key] for key in RECORDED if key in request},
            created_by=context.caller.arn,
            token=context.token,
            tags_of_it=request.get("Tags", ()),
        )
        return {"EndpointConfigArn": arn}

    def _variant(self, variant: Members) -> Members:
        """The variant with its defaults. Raises: Invalid, Unsupported."""
        name = variant["VariantName"]
        for member in ("InstancePools", "AcceleratorType", "CoreDumpConfig"):
            if variant.get(member):
                raise Unsupported(f"{member} of variant {name}", "leave it out")
        scaling = variant.get("ManagedInstanceScaling", {})
        if scaling.get("Status") == "ENABLED" and variant.get("ModelName"):
            raise Unsupported(
                f"ManagedInstanceScaling of variant {name}, which has a model of its own",
                "leave it out, or leave ModelName out and give the variant inference components",
            )
        if scaling.get("MinInstanceCount", 0) > scaling.get("MaxInstanceCount", 1 << 31):
            raise Invalid("ManagedInstanceScaling", f"Variant {name}: MinInstanceCount exceeds MaxInstanceCount.")
        strategy = variant.get("RoutingConfig", {}).get("RoutingStrategy", RoutingStrategy.RANDOM)
        if strategy not in tuple(RoutingStrategy):
            raise Unsupported(f"RoutingStrategy {strategy} of variant {name}", f"one of {', '.join(RoutingStrategy)}")
        serverless = variant.get("ServerlessConfig")
        if serverless is not None:
            self._check_serverless(name, variant, serverless)
        else:
            self._check_instance(name, variant)
        return {**variant, "InitialVariantWeight": float(variant.get("InitialVariantWeight", 1.0))}

    def _check_serverless(self, name: str, variant: Members, serverless: Members) -> None:
        for member in ("InstanceType", "InitialInstanceCount"):
            if variant.get(member) is not None:
                raise Invalid(member, f"Variant {name}: {member} and ServerlessConfig exclude each other.")
        if serverless["MemorySizeInMB"] not in SERVERLESS_MEMORY_MIB:
            raise Invalid(
                "MemorySizeInMB",
                f"1 validation error detected: Value '{serverless['MemorySizeInMB']}' at 'memorySizeInMB' failed to "
                f"satisfy constraint: Member must satisfy enum value set: {list(SERVERLESS_MEMORY_MIB)}",
            )
        provisioned = serverless.get("ProvisionedConcurrency", 0)
        if provisioned > serverless["MaxConcurrency"]:
            raise Invalid(
                "ProvisionedConcurrency",
                f"Variant {name}: ProvisionedConcurrency {provisioned} exceeds MaxConcurrency "
                f"{serverless['MaxConcurrency']}.",
            )

    def _check_instance(self, name: str, variant: Members) -> None:
        kind = variant.get("InstanceType")
        if not kind:
            raise Invalid("InstanceType", f"Variant {name} needs an InstanceType or a ServerlessConfig.")
        if variant.get("InitialInstanceCount") is None:
            raise Invalid("InitialInstanceCount", f"Variant {name} needs an InitialInstanceCount of at least 1.")
        if kind not in self._prices.instances:
            known = ", ".join(sorted(self._prices.instances))
            raise Invalid("InstanceType", f"Variant {name}: {kind} is not in the price catalogue; it has {known}.")

    def _fits(self, variant: Members, model: Record) -> None:
        containers = models.containers(model.desired)
        if "ServerlessConfig" in variant:
            if len(containers) > 1:
                raise Invalid(
                    "ServerlessConfig",
                    f"Variant {variant['VariantName']}: a model of several containers is not supported for serverless "
                    "endpoints.",
                )
            if models.holds_many(model):
                raise Invalid("Mode", "A MultiModel container is not supported for serverless endpoints.")
            if "ModelDataSource" in containers[0]:
                raise Invalid("ModelDataSource", "ModelDataSource is not supported for serverless endpoints.")
            if model.desired.get("EnableNetworkIsolation"):
                raise Invalid("EnableNetworkIsolation", "Network isolation is not supported for serverless endpoints.")

    async def describe_endpoint_config(self, context: Context, request: Members) -> Members:
        name = request["EndpointConfigName"]
        context.authorize("sagemaker:DescribeEndpointConfig", context.place.arn(KIND, name))
        record = await self._resources.get(KIND, context.place, name)
        return {
            "EndpointConfigName": record.name,
            "EndpointConfigArn": context.place.arn(KIND, record.name),
            "ProductionVariants": record.desired["ProductionVariants"],
            "CreationTime": record.created_at,
        } | {key: record.desired[key] for key in RECORDED if key in record.desired}

    async def list_endpoint_configs(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:ListEndpointConfigs", "*")
        records, following = await self._resources.list(
            KIND,
            context.place,
            query_of(request),
            request.get("MaxResults", 10),
            page_position(request.get("NextToken")),
        )
        summaries = [
            {
                "EndpointConfigName": record.name,
                "EndpointConfigArn": context.place.arn(KIND, record.name),
                "CreationTime": record.created_at,
            }
            for record in records
        ]
        return present(EndpointConfigs=summaries, NextToken=page_token(following))

    async def delete_endpoint_config(self, context: Context, request: Members) -> Members:
        name = request["EndpointConfigName"]
        context.authorize("sagemaker:DeleteEndpointConfig", context.place.arn(KIND, name))
        await self._resources.remove(KIND, context.place, name)
        return {}


def _check_hosts(request: Members, variants: list[Members], hosts: list[str]) -> None:
    """Variants for inference components. Raises: Invalid, Unsupported."""
    if len(hosts) < len(variants):
        raise Invalid(
            "ModelName",
            f"Variants {', '.join(hosts)} have no ModelName: give one to every variant, or to none of them.",
        )
    if any("ServerlessConfig" in variant for variant in variants):
        raise Invalid("ModelName", "A serverless variant needs a ModelName: inference components run on instances.")
    if not request.get("ExecutionRoleArn"):
        raise Invalid("ExecutionRoleArn", "ExecutionRoleArn is required where variants have no ModelName.")
    for member in ("AsyncInferenceConfig", "DataCaptureConfig"):
        if request.get(member):
            raise Unsupported(f"{member} of an endpoint with inference components", "leave it out")


def _check_async(context: Context, asked: Members, variants: list[Members]) -> None:
    """Raises: Invalid, Unsupported, AccessDenied."""
    output = asked["OutputConfig"]
    if any("ServerlessConfig" in variant for variant in variants):
        raise Invalid("AsyncInferenceConfig", "A serverless variant cannot be invoked asynchronously.")
    if output.get("KmsKeyId"):
        raise Unsupported("KmsKeyId", "data is not encrypted with KMS keys here; leave KmsKeyId out")
    if not output.get("S3OutputPath"):
        raise Invalid("S3OutputPath", "AsyncInferenceConfig needs OutputConfig.S3OutputPath, where responses go.")
    for member in ("S3OutputPath", "S3FailurePath"):
        if member not in output:
            continue
        uri = parse_s3_uri(output[member])
        if uri is None:
            raise Invalid(member, f"{member} {output[member]} is not s3://BUCKET/PREFIX.")
        folder = uri.key.rstrip("/")
        context.authorize("s3:PutObject", f"arn:aws:s3:::{uri.bucket}/{folder + '/' if folder else ''}*")
    told = output.get("NotificationConfig", {})
    for member in ("SuccessTopic", "ErrorTopic"):
        if told.get(member):
            context.authorize("sns:Publish", told[member])


def _check_capture(context: Context, asked: Members, asynchronous: bool) -> None:
    """Raises: Invalid, Unsupported, AccessDenied."""
    if not asked.get("EnableCapture"):
        return
    if asynchronous:
        raise Unsupported("DataCaptureConfig of an asynchronous endpoint", "its inputs and outputs are objects already")
    if asked.get("KmsKeyId"):
        raise Unsupported("KmsKeyId", "data is not encrypted with KMS keys here; leave KmsKeyId out")
    uri = parse_s3_uri(asked["DestinationS3Uri"])
    if uri is None:
        raise Invalid("DestinationS3Uri", f"{asked['DestinationS3Uri']} is not s3://BUCKET/PREFIX.")
    folder = uri.key.rstrip("/")
    context.authorize("s3:PutObject", f"arn:aws:s3:::{uri.bucket}/{folder + '/' if folder else ''}*")
