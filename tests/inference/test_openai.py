"""A model behind an endpoint as a generator, over real HTTP; tests/evaluation/test_judges.py has the rest."""

import base64
import io
import threading
import time

import pytest
from judge_server import JudgeServer, Raw, completion
from PIL import Image

from vigc.errors import GenerationError, RequestRefusedError, TransientError
from vigc.inference import OpenAIGenerator, Request, SamplingParams
from vigc.modeling_vigc.sentences_vigc import UnitRule


def generator(server, **settings):
    return OpenAIGenerator(server.url, "tester", **{"wait": 0.01, "retries": 3, "timeout": 20, **settings})


def ask(key, *requests):
    completions = []
    for request in requests:
        completions.append((yield request))
    return key, completions


def echo(body, number):
    return f"{body['messages'][-1]['content']}!"


def test_rollouts_are_run_with_their_requests_in_turn():
    with JudgeServer(echo) as server:
        asked = {key: [Request(f"{key}{turn}") for turn in range(1 + key % 3)] for key in range(9)}
        found = dict(generator(server).run(ask(key, *requests) for key, requests in asked.items()))
        assert list(generator(server).run([])) == []
    assert {key: [one.text for one in said] for key, said in found.items()} == {
        key: [f"{one.prompt}!" for one in requests] for key, requests in asked.items()
    }
    assert len(server.requests) == sum(map(len, asked.values()))
    (one,) = found[0]
    assert (one.finish_reason, one.served_by) == ("eos", "tester-served")


def test_so_many_requests_are_in_flight_and_no_more():
    barrier, guard, flying, most = threading.Barrier(6), threading.Lock(), [0], [0]

    def answer(body, number):
        with guard:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        barrier.wait(60)
        with guard:
            flying[0] -= 1
        return "yes"

    with JudgeServer(answer) as server:
        assert len(list(generator(server, workers=6, timeout=60).run(ask(n, Request(f"{n}")) for n in range(18)))) == 18
    assert most[0] <= 6


def test_rollouts_are_taken_as_there_is_room():
    taken = []

    def rollouts():
        for number in range(20):
            taken.append(number)
            yield ask(number, Request("?"))

    with JudgeServer(echo) as server:
        results = generator(server, workers=2).run(rollouts())
        next(results)
        assert len(taken) <= 3
        results.close()
    assert len(taken) <= 3 and len(server.requests) <= 3


def test_fields_of_a_request():
    settings = SamplingParams({"max_new_tokens": 7, "temperature": 0.5, "top_p": None}, seed=3)
    with JudgeServer(echo) as server:
        model = generator(server, request={"max_tokens": None, "max_completion_tokens": 9})
        list(model.run([ask(0, Request("Say it.", system="Be brief.", sampling=settings))]))
        list(
            generator(server, request={"seed": 5}).run(
                [ask(0, Request("?", sampling=SamplingParams({"do_sample": False})))]
            )
        )
        with pytest.raises(GenerationError, match="num_beams is not supported by an endpoint"):
            list(model.run([ask(0, Request("?", sampling=SamplingParams({"num_beams": 5})))]))
        for request, reason in ((Request("?", prefix="It"), "continue a prefix"), (Request("?", target="x"), "score")):
            with pytest.raises(GenerationError, match=reason):
                list(model.run([ask(0, request)]))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it."}]
    assert [body for _, _, body in server.requests] == [
        {"model": "tester", "temperature": 0.5, "max_completion_tokens": 9, "messages": turns, "seed": 3},
        {"model": "tester", "temperature": 0, "messages": [{"role": "user", "content": "?"}], "seed": 5},
    ]


def test_images_are_sent_as_they_are_and_encoded_once(monkeypatch):
    image = Image.new("RGB", (5, 4), "red")
    image.putpixel((1, 1), (1, 2, 3))
    with JudgeServer(lambda body, number: "Red.") as server:
        model = generator(server)
        encoded = model.encode(image)
        list(model.run([ask(0, Request("Which colour?", (encoded,)), Request("Sure?", (image,)))]))
    for (_, _, body), text in zip(server.requests, ("Which colour?", "Sure?"), strict=True):
        shown, said = body["messages"][0]["content"]
        assert said == {"type": "text", "text": text} and shown == {"type": "image_url", "image_url": {"url": encoded}}
    data = base64.b64decode(encoded.removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).tobytes() == image.tobytes()


def test_one_refused_request_ends_its_rollout_alone():
    def strict(body, number):
        return Raw(400, b"too long") if body["messages"][-1]["content"] == "3" else echo(body, number)

    def careful(key):
        try:
            return key, (yield Request(str(key))).text
        except RequestRefusedError as error:
            return key, str(error)

    with JudgeServer(strict) as server:
        found = dict(generator(server).run(map(careful, range(6))))
        assert found == {key: f"{key}!" if key != 3 else "status 400: too long" for key in range(6)}
        with pytest.raises(RequestRefusedError, match="status 400: too long"):
            list(generator(server).run([ask(0, Request("3"))]))


def test_a_text_ends_where_its_rule_says():
    with JudgeServer(lambda body, number: Raw(200, completion("A cat. It sleeps.", "x", "length"))) as server:
        for stop, expected in ((UnitRule(), ("A cat.", "unit")), (None, ("A cat. It sleeps.", "length"))):
            ((_, (one,)),) = generator(server).run([ask(0, Request("?", stop=stop))])
            assert (one.text, one.finish_reason) == expected


def test_an_endpoint_that_is_away_ends_the_waiting_of_all():
    """The first that gives up tells the others, which would wait for minutes."""

    def answer(body, number):
        busy = body["messages"][-1]["content"] != "0"
        return Raw(429, b"", {"retry-after": "100"}) if busy else Raw(503, b"down")

    with JudgeServer(answer) as server:
        start = time.monotonic()
        with pytest.raises(TransientError, match=r"the model at .* is unavailable \(status") as error:
            list(generator(server, workers=4, retries=2, wait=0.2).run(ask(n, Request(str(n))) for n in range(4)))
        assert error.value.exit_code == 75 and time.monotonic() - start < 60


def test_the_key_stays_secret_and_goes_to_one_place(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret-123")
    with JudgeServer(lambda body, number: Raw(403, b"Wrong key sk-secret-123.")) as server:
        model = generator(server, key_variable="TEST_KEY")
        with pytest.raises(GenerationError, match=r"the model at .* refuses \(status 403: Wrong key \[key\]") as error:
            list(model.run([ask(0, Request("?"))]))
        assert "secret" not in f"{error.value}{model.identity}{model.endpoint}{model!r}"
        with JudgeServer(echo) as other:
            server.answer = lambda body, number: Raw(307, b"", {"location": f"{other.url}/chat/completions"})
            with pytest.raises(GenerationError, match="status 307"):
                list(model.run([ask(0, Request("?"))]))
            assert other.requests == [] and server.requests[0][1]["Authorization"] == "Bearer sk-secret-123"
    for url in ("localhost:8000", "http://user:hunter2@x/v1"):
        with pytest.raises(GenerationError, match="the model's URL") as error:
            OpenAIGenerator(url, "m")
        assert "hunter2" not in str(error.value)
