"""One device's MQTT client: aiomqtt, with what a fleet of hundreds in one process needs beside it."""

import logging
import socket
import ssl
from typing import Any, Final

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pisync.mqtt.address import MqttAddress

# Every broken connection is reported once, as the `MqttError` that ends it; aiomqtt and paho would log a line
# for each of the fleet's connections as well.
_SILENT: Final = logging.getLogger("device_sim.client")
_SILENT.setLevel(logging.CRITICAL)


class Client(aiomqtt.Client):
    """An MQTT 5 client that tells the PUBACK's reason code, which aiomqtt drops."""

    def __init__(self, address: MqttAddress, device_id: str, tls_context: ssl.SSLContext | None) -> None:
        super().__init__(
            address.host,
            address.port,
            username=address.username,
            password=address.password,
            identifier=device_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=tls_context,
            logger=_SILENT,
            # A PUBACK for a receipt and the next PUBLISH are two small writes: with Nagle's algorithm the
            # second one waits 40 ms for the broker's delayed TCP acknowledgement of the first.
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        )
        self._puback_reason_code = 0

    async def publish_once(self, topic: str, payload: bytes, properties: Properties) -> int:
        """Publish with QoS 1; returns the reason code of the PUBACK.

        One call at a time: that is how the PUBACK is known to be this publish's.
        """
        await self.publish(topic, payload, qos=1, properties=properties)
        return self._puback_reason_code

    def _on_disconnect(self, *arguments: Any) -> None:
        super()._on_disconnect(*arguments)
        if self._disconnected.done():
            self._disconnected.exception()  # or asyncio logs that nobody looked at it

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._puback_reason_code = reason_code.value
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_socket_register_write(self, client: Any, _userdata: Any, sock: Any) -> None:
        """Watch the socket for writing, as aiomqtt does a moment later, but not once it is closed.

        By then its file descriptor may be another device's.
        """

        def write() -> None:
            try:
                client.loop_write()
            except Exception as error:  # noqa: BLE001 - handed to who waits for the connection
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        def watch() -> None:
            if sock.fileno() >= 0:
                self._loop.add_writer(sock.fileno(), write)

        self._loop.call_soon_threadsafe(watch)
