"""SageMaker Python SDK v3, the other ways to infer with core resources: asynchronous, captured variants, streams."""

import json
import time

import numpy as np
from iris_models import (
    EXPECTED,
    IMAGE,
    ROLE,
    ROWS,
    RUN,
    TEXT,
    archive,
    captured_first,
    config,
    content,
    gone,
    model,
    numbers,
    put,
    serving,
)
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.resources import Model
from sagemaker.core.shapes import (
    AsyncInferenceClientConfig,
    AsyncInferenceConfig,
    AsyncInferenceNotificationConfig,
    AsyncInferenceOutputConfig,
    CaptureContentTypeHeader,
    CaptureOption,
    ContainerDefinition,
    DataCaptureConfig,
    DesiredWeightAndCapacity,
)

WORDS = b"""
def model_fn(model_dir):
    return None


def input_fn(body, content_type):
    return body


def predict_fn(data, model):
    return (f"word {number} ".encode() for number in range(3))


def output_fn(prediction, accept):
    return prediction, "text/plain"
"""


def topic(session, name):
    """The ARN of a new topic, and a function that gives the next message to it."""
    sns, sqs = (session.boto_session.client(service) for service in ("sns", "sqs"))
    arn = sns.create_topic(Name=f"{name}-{RUN}")["TopicArn"]
    queue = sqs.create_queue(QueueName=f"{name}-{RUN}")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    allowed = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": attributes["QueueArn"],
                "Condition": {"ArnEquals": {"aws:SourceArn": arn}},
            }
        ],
    }
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(allowed)})
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=attributes["QueueArn"])

    def message():
        deadline = time.monotonic() + 120
        while not (found := sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10).get("Messages")):
            assert time.monotonic() < deadline, f"nothing came to {name}"
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=found[0]["ReceiptHandle"])
        return json.loads(json.loads(found[0]["Body"])["Message"])

    return arn, message


def asynchronous(session):
    """Inputs and outputs in S3, a topic that is told of each end, a failed request told as one."""
    (well, ended), (ill, failed) = topic(session, "well"), topic(session, "ill")
    place = f"s3://{session.default_bucket()}/async-{RUN}"
    fitted = model(session, "async", 0)
    configured = config(
        "async",
        ("AllTraffic", fitted.model_name),
        async_inference_config=AsyncInferenceConfig(
            client_config=AsyncInferenceClientConfig(max_concurrent_invocations_per_instance=2),
            output_config=AsyncInferenceOutputConfig(
                s3_output_path=f"{place}/out",
                s3_failure_path=f"{place}/failed",
                notification_config=AsyncInferenceNotificationConfig(success_topic=well, error_topic=ill),
            ),
        ),
    )
    endpoint = serving("async", configured)
    source = put(session, f"async-{RUN}/in/iris.csv", TEXT)
    sent = [
        endpoint.invoke_async(
            input_location=source, content_type="text/csv", accept="text/csv", inference_id=f"{number}-{RUN}"
        )
        for number in range(3)
    ]
    for one in sent:
        assert [int(float(word)) for word in content(session, one.output_location).split()] == EXPECTED[0]
    told = [ended() for _ in sent]
    assert {one["inferenceId"] for one in told} == {f"{number}-{RUN}" for number in range(3)}
    assert {one["responseParameters"]["outputLocation"] for one in told} == {one.output_location for one in sent}
    broken = put(session, f"async-{RUN}/in/broken.csv", "one,two")
    refused = endpoint.invoke_async(input_location=broken, content_type="text/csv")
    assert content(session, refused.failure_location)
    told = failed()
    assert (told["invocationStatus"], told["inferenceId"]) == ("Failed", refused.inference_id), told
    gone(endpoint, configured, fitted)


def variants(session):
    """Two variants: asked by name and by weight, all requests captured; one grows, and is the only one in the end."""
    place = f"s3://{session.default_bucket()}/captured-{RUN}"
    models = [model(session, f"variant-{number}", number) for number in range(2)]
    names = [one.model_name for one in models]
    both = config(
        "both",
        ("one", names[0]),
        ("two", names[1]),
        data_capture_config=DataCaptureConfig(
            enable_capture=True,
            initial_sampling_percentage=100,
            destination_s3_uri=place,
            capture_options=[CaptureOption(capture_mode="Input"), CaptureOption(capture_mode="Output")],
            capture_content_type_header=CaptureContentTypeHeader(csv_content_types=["text/csv"]),
        ),
    )
    endpoint = serving("variants", both)
    for number, name in enumerate(("one", "two")):
        answer = endpoint.invoke(body=TEXT, content_type="text/csv", accept="text/csv", target_variant=name)
        assert (answer.invoked_production_variant, numbers(answer)) == (name, EXPECTED[number])
    endpoint.update_weights_and_capacities(
        desired_weights_and_capacities=[
            DesiredWeightAndCapacity(variant_name="two", desired_weight=3.0, desired_instance_count=2)
        ]
    )
    endpoint.wait_for_status("InService")
    found = {one.variant_name: one for one in endpoint.refresh().production_variants}
    assert [(found[name].current_weight, found[name].current_instance_count) for name in ("one", "two")] == [
        (1.0, 1),
        (3.0, 2),
    ]
    for _ in range(5):
        answer = endpoint.invoke(body=TEXT, content_type="text/csv", accept="text/csv")
        assert numbers(answer) == EXPECTED[("one", "two").index(answer.invoked_production_variant)]
    kept = captured_first(session, f"captured-{RUN}/{endpoint.endpoint_name}/one/")
    assert [int(float(word)) for word in kept["endpointOutput"]["data"].split()] == EXPECTED[0]
    assert np.array_equal(np.loadtxt(kept["endpointInput"]["data"].splitlines(), delimiter=","), ROWS)

    only = config("only", ("two", names[1]))
    endpoint.endpoint_config_name = only.endpoint_config_name
    endpoint.update()
    endpoint.wait_for_status("InService")
    assert [one.variant_name for one in endpoint.refresh().production_variants] == ["two"]
    assert numbers(endpoint.invoke(body=TEXT, content_type="text/csv", accept="text/csv")) == EXPECTED[1]
    gone(endpoint, both, only, *models)


def streamed(session):
    """A generator's pieces, read by the runtime client of the SDK's session.

    (Endpoint.invoke_with_response_stream cannot, on AWS neither: sagemaker-core 2.27 takes botocore's event stream for
    a dict and ends in AttributeError.)
    """
    words = Model.create(
        model_name=f"words-{RUN}",
        primary_container=ContainerDefinition(
            image=IMAGE,
            model_data_url=put(session, f"words-{RUN}/model.tar.gz", archive({"code/inference.py": WORDS})),
        ),
        execution_role_arn=ROLE,
    )
    configured = config("words", ("AllTraffic", words.model_name))
    endpoint = serving("words", configured)
    answer = session.sagemaker_runtime_client.invoke_endpoint_with_response_stream(
        EndpointName=endpoint.endpoint_name, Body="go", ContentType="text/csv"
    )
    pieces = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert b"".join(pieces) == b"word 0 word 1 word 2 ", pieces
    gone(endpoint, configured, words)


def main():
    session = Session()
    for story in (asynchronous, variants, streamed):
        story(session)
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
