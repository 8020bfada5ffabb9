# A device bundle on JetPack 6 (CUDA, TensorRT and its Python binding come with the base image). Not built by us.
#   docker build -f deploy/jetpack6.Dockerfile --build-arg BUNDLE=artifacts/b1/b1.int8.bundle.tar.gz -t b1 .
#   docker run --rm --runtime nvidia -v "$PWD:/images" b1 runtime.infer /images/photo.jpg
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}
ARG BUNDLE
COPY deploy/install.sh ${BUNDLE} /tmp/bundle/
RUN /tmp/bundle/install.sh /tmp/bundle/*.bundle.tar.gz /opt/efficientnet && rm -r /tmp/bundle
WORKDIR /opt/efficientnet/current
ENTRYPOINT ["/opt/efficientnet/venv/bin/python", "-m"]
CMD ["runtime.infer", "--help"]
