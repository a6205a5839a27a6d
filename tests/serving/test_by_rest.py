import http.client
import json

from rim_tf.serving import by_rest


def test_what_fails_in_the_server_is_an_error_for_the_caller_and_on_record(capfd):
    class Broken:
        def GetModelStatus(self, request):
            raise ZeroDivisionError("broken for a test")

    server = by_rest.start(Broken(), "127.0.0.1", 0, 1000)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request("GET", "/v1/models/rim")
        answer = connection.getresponse()
        assert answer.status == 500 and "its log says more" in json.loads(answer.read())["error"]
    finally:
        server.shutdown()
        server.server_close()
    assert "ZeroDivisionError: broken for a test" in capfd.readouterr().err
