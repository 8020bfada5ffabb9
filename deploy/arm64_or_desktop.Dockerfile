# A device bundle on JetPack 7.2 and later, which run ordinary Arm64 containers, and on desktops and servers. Not built by us.
#   docker build -f deploy/arm64_or_desktop.Dockerfile --build-arg BUNDLE=artifacts/b1/b1.int8.bundle.tar.gz -t b1 .
#   docker run --rm --gpus all -v "$PWD:/images" b1 runtime.infer /images/photo.jpg
ARG BASE=nvcr.io/nvidia/tensorrt:25.10-py3
FROM ${BASE}
ARG BUNDLE
COPY deploy/install.sh ${BUNDLE} /tmp/bundle/
RUN /tmp/bundle/install.sh /tmp/bundle/*.bundle.tar.gz /opt/efficientnet && rm -r /tmp/bundle
WORKDIR /opt/efficientnet/current
ENTRYPOINT ["/opt/efficientnet/venv/bin/python", "-m"]
CMD ["runtime.infer", "--help"]
