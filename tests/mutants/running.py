"""Faults in what runs: images, engines, artifacts and their identity, the server."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PREPROCESS = "tests/runtime/images/test_preprocess.py"
DECODE = "tests/runtime/images/test_decode.py"
RUNNER = "tests/runtime/backends/test_tensorrt_runner.py"
WRITE = "tests/runtime/artifacts/test_write.py"
IDENTITY = "tests/runtime/artifacts/test_identity.py"
ENGINES = "tests/runtime/backends/test_tensorrt_build.py"
SERVE = "tests/runtime/serve/test_serve.py"

MUTANTS = [
    # images
    Mutant(
        "EXIF orientation ignored where a JPEG is decoded at a fraction",
        "runtime/images/decode.py",
        "if turn is not None:",
        "if turn is not None and margins is None:",
        f"{DECODE} {PREPROCESS}",
    ),
    Mutant(
        "EXIF orientation ignored in files",
        "runtime/images/decode.py",
        "return _upright_rgb(image, margins, name)",
        "return _to_rgb(image, name)",
        PREPROCESS,
    ),
    Mutant(
        "EXIF orientation ignored in PIL images",
        "runtime/images/decode.py",
        "return _upright_rgb(source, margins_of(source), name)",
        "return _to_rgb(source, name)",
        PREPROCESS,
    ),
    Mutant(
        "margins of a JPEG decoded at a fraction not turned with it",
        "runtime/images/decode.py",
        "margins = margins and (margins[turn[1][0]], margins[turn[1][1]], margins[turn[1][2]], margins[turn[1][3]])",
        "pass",
        DECODE,
    ),
    Mutant(
        "the crop is a pixel off",
        "runtime/images/preprocess.py",
        "return round((length - side) / 2.0) if",
        "return 1 + round((length - side) / 2.0) if",
        PREPROCESS,
    ),
    Mutant(
        "what is missing of the engine's least batch is not zero",
        "runtime/backends/tensorrt/runner.py",
        "host[n:batch] = 0",
        "pass",
        RUNNER,
    ),
    Mutant(
        "answers of a graph with a fixed batch keep those of the filling",
        "runtime/backends/backend.py",
        "return np.concatenate(answers)[: len(images)]",
        "return np.concatenate(answers)",
        "tests/runtime/artifacts/test_third_party.py",
    ),
    # identity of artifacts
    Mutant(
        "what belongs to the same network is moved aside when that is written again",
        "runtime/artifacts/write.py",
        "if before and before != network:",
        "if before:",
        WRITE,
    ),
    Mutant(
        "INT8 files of two networks pass for those of one",
        "runtime/artifacts/write.py",
        'if artifact.metadata.get("made_from") != made_from or not of_one:',
        'if artifact.metadata.get("made_from") != made_from:',
        WRITE,
    ),
    Mutant(
        "an export with other settings passes for this one",
        "runtime/artifacts/write.py",
        'if artifact.metadata.get("made_from") != made_from or not of_one:',
        "if not of_one:",
        WRITE,
    ),
    Mutant(
        "half of an export passes for the whole",
        "runtime/artifacts/write.py",
        'for precision in json.loads(first.metadata["made_for"]):',
        "for precision in precisions[:1]:",
        WRITE,
    ),
    Mutant(
        "random weights overwrite real ones unasked",
        "runtime/artifacts/write.py",
        "if there and not same_weights(new, there):",
        "if there and weights_sha256 and not same_weights(new, there):",
        f"{IDENTITY}::test_other_weights_are_asked_for_a_name",
    ),
    Mutant(
        "a damaged artifact passes for a whole one",
        "runtime/artifacts/write.py",
        "sha256 = verify(artifact.path)",
        'sha256 = artifact.metadata["sha256"]',
        WRITE,
    ),
    # identity of engines
    Mutant(
        "an engine of another network of that name is loaded",
        "runtime/backends/tensorrt/manifest.py",
        "if manifest.onnx_sha256 != wanted.onnx_sha256:",
        "if False:",
        f"{ENGINES}::test_what_does_not_fit_is_built_anew_with_the_reason_before_tensorrt_sees_it",
    ),
    Mutant(
        "an engine for another GPU is loaded",
        "runtime/backends/tensorrt/manifest.py",
        "if manifest.capability not in (wanted.capability, ANY):",
        "if False:",
        f"{ENGINES}::test_what_does_not_fit_is_built_anew_with_the_reason_before_tensorrt_sees_it",
    ),
    Mutant(
        "an engine of another TensorRT is loaded",
        "runtime/backends/tensorrt/manifest.py",
        "if built != here:",
        "if False:",
        f"{ENGINES}::test_what_does_not_fit_is_built_anew_with_the_reason_before_tensorrt_sees_it",
    ),
    Mutant(
        "an engine for Ampere and newer is loaded on Turing",
        "runtime/backends/tensorrt/manifest.py",
        "if manifest.capability == ANY and wanted.capability in BEFORE_AMPERE:",
        "if False:",
        f"{ENGINES}::test_a_portable_engine_runs_on_what_it_is_for",
    ),
    Mutant(
        "a damaged engine reaches TensorRT",
        "runtime/backends/tensorrt/manifest.py",
        "hashlib.sha256(content).hexdigest() != manifest.engine_sha256:",
        "False:",
        f"{ENGINES}::test_what_does_not_fit_is_built_anew_with_the_reason_before_tensorrt_sees_it",
    ),
    Mutant(
        "an engine without a manifest is taken unasked",
        "runtime/backends/tensorrt/manifest.py",
        "if not trust:\n            raise",
        "pass",
        f"{ENGINES}::test_an_engine_without_a_whole_manifest_is_code_of_unknown_origin",
    ),
    Mutant(
        "an engine with other options passes for this one",
        "runtime/backends/tensorrt/engine.py",
        "if manifest.options == options:",
        "if True:",
        "tests/runtime/test_engine_command.py::test_after_building_infer_takes_that_engine",
    ),
    Mutant(
        "an engine that must be built anew forgets its options",
        "runtime/backends/tensorrt/engine.py",
        "options = read_manifest(self.path).options._replace(target=None)",
        "read_manifest(self.path)",
        f"{ENGINES}::test_what_does_not_fit_is_built_anew_with_the_reason_before_tensorrt_sees_it",
    ),
    Mutant(
        "--no-rebuild builds",
        "runtime/backends/tensorrt/engine.py",
        "if not rebuild:",
        "if False:",
        f"{ENGINES}::test_what_does_not_fit_is_built_anew_with_the_reason_before_tensorrt_sees_it",
    ),
    Mutant(
        "an engine is built from a damaged artifact",
        "runtime/backends/tensorrt/engine.py",
        "verify(self.source.path)",
        "pass",
        f"{ENGINES}::test_a_damaged_artifact_is_not_built",
    ),
    # the server
    Mutant(
        "any token opens",
        "runtime/serve/access.py",
        "and hmac.compare_digest(given.encode(), token.encode())",
        "",
        f"{SERVE}::test_without_the_token_nothing_is_said",
    ),
    Mutant(
        "a web page elsewhere reaches the server by a name of its own",
        "runtime/serve/access.py",
        "if host.lower() not in _LOCAL:",
        "if False:",
        f"{SERVE}::test_a_name_that_is_not_this_machine_s_is_refused",
    ),
    Mutant(
        "scripts can read the token",
        "runtime/serve/access.py",
        "httponly=True",
        "httponly=False",
        f"{SERVE}::test_the_token_opens_by_header_and_by_the_cookie_of_the_first_visit",
    ),
    Mutant(
        "the token stays in the address",
        "runtime/serve/access.py",
        "raise moved",
        "return await handler(request)",
        f"{SERVE}::test_the_token_opens_by_header_and_by_the_cookie_of_the_first_visit",
    ),
    Mutant(
        "slow clients keep everybody else out",
        "runtime/serve/access.py",
        "if not self.door.awaited:",
        "if True:",
        f"{SERVE}::test_slow_and_endless_clients_do_not_keep_others_from_being_answered",
    ),
    Mutant(
        "bodies fill the memory",
        "runtime/serve/app.py",
        "if self._held > max(limit, _BODIES):",
        "if False:",
        f"{SERVE}::test_bodies_that_would_fill_the_memory_are_refused_and_their_room_is_given_back",
    ),
    Mutant(
        "of images that wait each gets another one's answer",
        "runtime/serve/models.py",
        "for each, row in zip(batch, logits):",
        "for each, row in zip(batch, logits[::-1]):",
        f"{SERVE}::test_images_that_wait_are_the_next_batch_and_each_gets_its_own_answer",
    ),
    Mutant(
        "the newest image goes first",
        "runtime/serve/models.py",
        "_Waiting(ticket, prepared, clock[-1], answer)",
        "_Waiting(-ticket, prepared, clock[-1], answer)",
        f"{SERVE}::test_first_in_first_out",
    ),
    Mutant(
        "waiting images are never refused",
        "runtime/serve/models.py",
        "if self._admitted >= self.most:",
        "if False:",
        f"{SERVE}::test_too_many_waiting_images_are_refused_and_the_others_answered",
    ),
    Mutant(
        "an answer of NaN is a class",
        "runtime/serve/models.py",
        "self.classifier.finite(logits[None], [name])",
        "pass",
        f"{SERVE}::test_an_answer_of_nan_is_an_error_of_that_image",
    ),
    Mutant(
        "the milliseconds of waiting and of the network swapped",
        "runtime/serve/models.py",
        "each.answer.set_result((row, began - each.came, ran))",
        "each.answer.set_result((row, ran, began - each.came))",
        f"{SERVE}::test_images_that_wait_are_the_next_batch_and_each_gets_its_own_answer",
    ),
    Mutant(
        "a replaced artifact is not noticed",
        "runtime/serve/models.py",
        "if stamp is None or stamp == self._seen:",
        "if stamp is not None or stamp == self._seen:",
        f"{SERVE}::test_a_replaced_artifact_answers_and_no_request_is_lost",
    ),
    Mutant(
        "a damaged new artifact ends the old one's service",
        "runtime/serve/models.py",
        'except UserError as error:\n            return f"the artifact changed',
        'except BlockingIOError as error:\n            return f"the artifact changed',
        f"{SERVE}::test_a_replaced_artifact_answers_and_no_request_is_lost",
    ),
    Mutant(
        "a model is closed before its last image is answered",
        "runtime/serve/models.py",
        "if self._closing and not self._admitted:",
        "if self._closing:",
        f"{SERVE}::test_a_model_is_not_closed_while_an_image_is_still_decoded",
    ),
    Mutant(
        "what the server says of an error names files here",
        "runtime/serve/app.py",
        'return 400, {"file": name, "error": str(error), **told}',
        'return 400, {"file": name, "error": repr(error.__traceback__), **told}',
        f"{SERVE}::test_what_is_no_image_is_refused_in_a_sentence_without_a_path",
    ),
    Mutant(
        "the busy server answers 200",
        "runtime/serve/app.py",
        "if any(status == 503 for status, _ in answered):",
        "if False:",
        f"{SERVE}::test_a_busy_server_says_so_and_when_to_ask_again",
    ),
    Mutant(
        "answers carry no security headers",
        "runtime/serve/app.py",
        "for name, value in HEADERS.items():",
        "for name, value in ():",
        f"{SERVE}::test_every_answer_has_security_headers_and_no_folder_is_served",
    ),
    Mutant(
        "a request after SIGTERM is cut off",
        "runtime/serve/app.py",
        "while self._under_way:",
        "while False:",
        f"{SERVE}::test_sigterm_finishes_what_is_under_way_and_says_what_was_served",
    ),
]
