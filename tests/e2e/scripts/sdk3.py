"""SageMaker Python SDK v3: core resources and ModelBuilder, from a fitted model to a deleted endpoint."""

import io
import json
import os

import boto3
import joblib
import numpy as np
import xgboost
from iris_models import ROLE, RUN, archive, put
from sagemaker.core import image_uris
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.inference_config import ServerlessInferenceConfig
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import (
    ContainerDefinition,
    ProductionVariant,
    Tag,
)
from sagemaker.serve.model_builder import ModelBuilder
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier


def upload(session, key, name, content):
    return put(session, f"{key}/model.tar.gz", archive({name: content}))


def forest():
    rows, labels = load_iris(return_X_y=True)
    fitted = RandomForestClassifier(40, random_state=3).fit(rows, labels)
    file = io.BytesIO()
    joblib.dump(fitted, file)
    return fitted, rows, file.getvalue()


def csv(rows):
    return "\n".join(",".join(repr(float(x)) for x in row) for row in rows)


def core_resources(session):
    """Model, EndpointConfig, Endpoint as resources: create, wait, invoke, update, list, delete."""
    fitted, rows, content = forest()
    model = Model.create(
        model_name=f"core-{RUN}",
        primary_container=ContainerDefinition(
            image="clary/sklearn:1.9.1", model_data_url=upload(session, f"core-{RUN}", "model.joblib", content)
        ),
        execution_role_arn=ROLE,
        tags=[Tag(key="team", value="iris")],
    )
    configs = [
        EndpointConfig.create(
            endpoint_config_name=f"core-{RUN}-{number}",
            production_variants=[
                ProductionVariant(
                    variant_name="AllTraffic",
                    model_name=model.model_name,
                    instance_type="ml.m5.large",
                    initial_instance_count=number,
                )
            ],
        )
        for number in (1, 2)
    ]
    endpoint = Endpoint.create(endpoint_name=f"core-{RUN}", endpoint_config_name=configs[0].endpoint_config_name)
    endpoint.wait_for_status("InService")
    expected = fitted.predict(rows).tolist()
    answer = endpoint.invoke(body=csv(rows), content_type="text/csv", accept="text/csv")
    assert [float(word) for word in answer.body.read().decode().split()] == expected
    body = io.BytesIO()
    np.save(body, rows)
    answer = endpoint.invoke(body=body.getvalue(), content_type="application/x-npy", accept="application/json")
    assert json.loads(answer.body.read()) == expected
    assert answer.invoked_production_variant == "AllTraffic"
    endpoint.endpoint_config_name = configs[1].endpoint_config_name
    endpoint.update()
    endpoint.wait_for_status("InService")
    endpoint.refresh()
    assert endpoint.endpoint_config_name == configs[1].endpoint_config_name
    assert endpoint.production_variants[0].current_instance_count == 2
    assert [found.endpoint_name for found in Endpoint.get_all(name_contains=RUN)] == [f"core-{RUN}"]
    again = Endpoint.get(endpoint_name=f"core-{RUN}")
    answer = again.invoke(body=csv(rows[:3]), content_type="text/csv")
    assert [float(word) for word in answer.body.read().decode().split()] == expected[:3]
    endpoint.delete()
    endpoint.wait_for_delete()
    for resource in (*configs, model):
        resource.delete()
    assert list(Model.get_all(name_contains=f"core-{RUN}")) == []


def serverless(session):
    """ModelBuilder puts AWS's XGBoost image on a serverless endpoint.

    (EndpointConfig.create cannot: sagemaker-core 2.27 spells MemorySizeInMB as botocore does not.)
    """
    rows, labels = load_breast_cancer(return_X_y=True)
    booster = xgboost.train({"objective": "binary:logistic", "seed": 1}, xgboost.DMatrix(rows, label=labels), 20)
    builder = ModelBuilder(
        image_uri=image_uris.retrieve("xgboost", session.boto_region_name, version="3.0-5"),
        s3_model_data_url=upload(session, f"xgb-{RUN}", "xgboost-model", bytes(booster.save_raw("ubj"))),
        role_arn=ROLE,
        sagemaker_session=session,
        model_path=f"{os.environ['HOME']}/built",  # its default, in /tmp, belongs to the first user who builds
    )
    builder.build(model_name=f"xgb-{RUN}")
    endpoint = builder.deploy(
        endpoint_name=f"xgb-{RUN}",
        inference_config=ServerlessInferenceConfig(memory_size_in_mb=2048, max_concurrency=2),
    )
    answer = endpoint.invoke(body=csv(rows[:30]), content_type="text/csv")
    found = np.array([float(word) for word in answer.body.read().decode().split(",")], dtype=np.float32)
    np.testing.assert_array_equal(found, booster.predict(xgboost.DMatrix(rows[:30])))
    endpoint.delete()


def model_builder(session):
    """ModelBuilder with an image and an archive that are there, in a session of the role itself."""
    lent = session.boto_session.client("sts").assume_role(RoleArn=ROLE, RoleSessionName="builder")["Credentials"]
    assumed = Session(
        boto3.Session(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"], session.boto_region_name)
    )
    assert get_execution_role(assumed) == ROLE
    fitted, rows, content = forest()
    builder = ModelBuilder(
        image_uri="clary/sklearn:1.9.1",
        s3_model_data_url=upload(assumed, f"built-{RUN}", "model.joblib", content),
        role_arn=ROLE,
        sagemaker_session=assumed,
        model_path=f"{os.environ['HOME']}/built",
        instance_type="ml.m5.large",
    )
    builder.build(model_name=f"built-{RUN}")
    endpoint = builder.deploy(endpoint_name=f"built-{RUN}", instance_type="ml.m5.large", initial_instance_count=1)
    answer = endpoint.invoke(body=csv(rows), content_type="text/csv", accept="text/csv")
    assert [float(word) for word in answer.body.read().decode().split()] == fitted.predict(rows).tolist()
    endpoint.delete()


def main():
    session = Session()
    assert session.account_id() == ROLE.split(":")[4]
    assert session.default_bucket() == f"sagemaker-{session.boto_region_name}-{session.account_id()}"
    for story in (core_resources, serverless, model_builder):
        story(session)
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
