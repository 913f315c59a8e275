"""SageMaker Python SDK v3, core resources for many models on one endpoint: multi-model, containers, components."""

import numpy as np
import xgboost
from iris_models import (
    EXPECTED,
    FITTED,
    IMAGE,
    KIND,
    LABELS,
    ROLE,
    ROWS,
    RUN,
    TEXT,
    archive,
    config,
    gone,
    model,
    numbers,
    pickled,
    put,
    serving,
)
from sagemaker.core import image_uris
from sagemaker.core.deserializers import CSVDeserializer
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.resources import EndpointConfig, InferenceComponent, Model
from sagemaker.core.serializers import CSVSerializer
from sagemaker.core.shapes import (
    ContainerDefinition,
    InferenceComponentComputeResourceRequirements,
    InferenceComponentRuntimeConfig,
    InferenceComponentSpecification,
    InferenceExecutionConfig,
    MultiModelConfig,
    ProductionVariant,
)
from sklearn.preprocessing import StandardScaler

SCALER = b"""
import os

import joblib


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "scaler.bin"))


def predict_fn(data, model):
    return model.transform(data)
"""


def multimodel(session):
    """One container, a prefix of models: each asked for by its name, one added while the endpoint serves."""
    place = f"s3://{session.default_bucket()}/many-{RUN}/"
    for number in range(2):
        put(session, f"many-{RUN}/{number}.tar.gz", archive({"model.joblib": pickled(FITTED[number])}))
    many = Model.create(
        model_name=f"many-{RUN}",
        primary_container=ContainerDefinition(
            image=IMAGE,
            model_data_url=place,
            mode="MultiModel",
            multi_model_config=MultiModelConfig(model_cache_setting="Enabled"),
        ),
        execution_role_arn=ROLE,
    )
    configured = config("many", ("AllTraffic", many.model_name))
    endpoint = serving("many", configured)
    put(session, f"many-{RUN}/2.tar.gz", archive({"model.joblib": pickled(FITTED[2])}))
    endpoint.serializer, endpoint.deserializer = CSVSerializer(), CSVDeserializer()
    for number in range(3):
        told = endpoint.invoke(ROWS, content_type="text/csv", accept="text/csv", target_model=f"{number}.tar.gz").body
        assert [int(float(x)) for row in told for x in row] == EXPECTED[number]
    gone(endpoint, configured, many)


def parts(session):
    """A scaler in a script and XGBoost, as containers; what both together predict, and the second one alone."""
    scaler = StandardScaler().fit(ROWS.astype(np.float32))  # as the scikit-learn container reads text
    scaled = scaler.transform(ROWS.astype(np.float32))
    booster = xgboost.train({"objective": "multi:softmax", "num_class": 3, "seed": 7}, xgboost.DMatrix(scaled, LABELS))
    files = {"scaler.bin": pickled(scaler), "code/inference.py": SCALER}
    containers = [
        ContainerDefinition(
            container_hostname="scaler",
            image=IMAGE,
            model_data_url=put(session, f"parts-{RUN}/scaler.tar.gz", archive(files)),
            environment={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"},
        ),
        ContainerDefinition(
            container_hostname="booster",
            image=image_uris.retrieve("xgboost", session.boto_region_name, version="3.0-5"),
            model_data_url=put(
                session, f"parts-{RUN}/booster.tar.gz", archive({"xgboost-model": bytes(booster.save_raw("ubj"))})
            ),
        ),
    ]
    return containers, scaled, booster


def containers(session):
    """The same two containers one behind the other, and each by its host name."""
    both, scaled, booster = parts(session)
    expected = booster.predict(xgboost.DMatrix(scaled)).tolist()
    made = {}
    for mode in ("Serial", "Direct"):
        one = Model.create(
            model_name=f"{mode.lower()}-{RUN}",
            containers=both,
            inference_execution_config=InferenceExecutionConfig(mode=mode),
            execution_role_arn=ROLE,
        )
        assert [part.container_hostname for part in one.containers] == ["scaler", "booster"]
        made[mode] = one, config(mode.lower(), ("AllTraffic", one.model_name))
    serial, direct = (serving(mode.lower(), configured) for mode, (_, configured) in made.items())
    assert numbers(serial.invoke(body=TEXT, content_type="text/csv", accept="text/csv")) == expected
    answer = direct.invoke(body=TEXT, content_type="text/csv", accept="text/csv", target_container_hostname="scaler")
    text = answer.body.read().decode()
    np.testing.assert_allclose(np.loadtxt(text.splitlines(), delimiter=","), scaled, rtol=1e-6)
    answer = direct.invoke(body=text, content_type="text/csv", target_container_hostname="booster")
    assert numbers(answer) == expected
    gone(serial, direct, *(resource for pair in made.values() for resource in reversed(pair)))


def components(session):
    """Two models on one endpoint without a model of its own; one of them gets a second copy."""
    configured = EndpointConfig.create(
        endpoint_config_name=f"shared-{RUN}",
        execution_role_arn=ROLE,
        production_variants=[
            ProductionVariant(variant_name="AllTraffic", instance_type=KIND, initial_instance_count=1)
        ],
    )
    endpoint = serving("shared", configured)
    models = [model(session, f"component-{number}", number) for number in range(2)]
    made = [
        InferenceComponent.create(
            inference_component_name=f"component-{number}-{RUN}",
            endpoint_name=endpoint.endpoint_name,
            variant_name="AllTraffic",
            specification=InferenceComponentSpecification(
                model_name=models[number].model_name,
                compute_resource_requirements=InferenceComponentComputeResourceRequirements(
                    number_of_cpu_cores_required=0.5, min_memory_required_in_mb=512
                ),
            ),
            runtime_config=InferenceComponentRuntimeConfig(copy_count=1),
        )
        for number in range(2)
    ]
    for one in made:
        one.wait_for_status("InService")
    made[1].update_runtime_configs(desired_runtime_config=InferenceComponentRuntimeConfig(copy_count=2))
    made[1].wait_for_status("InService")
    assert made[1].refresh().runtime_config.current_copy_count == 2
    for number, one in enumerate(made):
        answer = endpoint.invoke(
            body=TEXT,
            content_type="text/csv",
            accept="text/csv",
            inference_component_name=one.inference_component_name,
        )
        assert numbers(answer) == EXPECTED[number]
    found = InferenceComponent.get_all(endpoint_name_equals=endpoint.endpoint_name)
    assert sorted(one.inference_component_name for one in found) == [f"component-{number}-{RUN}" for number in range(2)]
    for one in made:
        one.delete()
        one.wait_for_delete()
    gone(endpoint, configured, *models)


def main():
    session = Session()
    for story in (multimodel, containers, components):
        story(session)
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
