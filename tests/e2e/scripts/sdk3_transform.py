"""SageMaker Python SDK v3: TransformJob as a core resource, and its Transformer."""

from iris_models import ROLE, RUN, archive, pickled, put
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.resources import Model, TransformJob
from sagemaker.core.shapes import (
    ContainerDefinition,
    TransformDataSource,
    TransformInput,
    TransformOutput,
    TransformResources,
    TransformS3DataSource,
)
from sagemaker.core.transformer import Transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier


def get(session, key):
    body = session.boto_session.client("s3").get_object(Bucket=session.default_bucket(), Key=key)["Body"]
    return [float(word) for word in body.read().split()]


def main():
    session = Session()
    rows, labels = load_iris(return_X_y=True)
    fitted = RandomForestClassifier(30, random_state=3).fit(rows, labels)
    model = Model.create(
        model_name=f"t3-{RUN}",
        primary_container=ContainerDefinition(
            image="clary/sklearn:1.9.1",
            model_data_url=put(session, f"t3-{RUN}/model.tar.gz", archive({"model.joblib": pickled(fitted)})),
        ),
        execution_role_arn=ROLE,
    )
    expected = fitted.predict(rows).tolist()
    source = put(session, f"t3-{RUN}/in/iris.csv", "\n".join(",".join(repr(float(x)) for x in row) for row in rows))
    output = f"s3://{session.default_bucket()}/t3-{RUN}"
    job = TransformJob.create(
        transform_job_name=f"core-t-{RUN}",
        model_name=model.model_name,
        transform_input=TransformInput(
            data_source=TransformDataSource(
                s3_data_source=TransformS3DataSource(s3_data_type="S3Prefix", s3_uri=source)
            ),
            content_type="text/csv",
            split_type="Line",
        ),
        transform_output=TransformOutput(s3_output_path=f"{output}/core", assemble_with="Line"),
        transform_resources=TransformResources(instance_type="ml.m5.large", instance_count=1),
    )
    job.wait()
    assert job.transform_job_status == "Completed"
    assert get(session, f"t3-{RUN}/core/iris.csv.out") == expected
    assert [one.transform_job_name for one in TransformJob.get_all(name_contains=RUN)] == [f"core-t-{RUN}"]
    print("transform_job: done", flush=True)

    transformer = Transformer(
        model.model_name,
        1,
        "ml.m5.large",
        strategy="MultiRecord",
        assemble_with="Line",
        output_path=f"{output}/sdk",
        sagemaker_session=session,
    )
    transformer.transform(source, content_type="text/csv", split_type="Line", wait=True, logs=False)
    assert get(session, f"t3-{RUN}/sdk/iris.csv.out") == expected
    model.delete()
    print("transformer: done", flush=True)


if __name__ == "__main__":
    main()
