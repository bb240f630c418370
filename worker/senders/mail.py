"""Mail: one plain text for one address, with a Message-ID that is the same each time that it is sent."""

import socket
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib

from pisync import limits
from pisync.domain.notifications import Message
from pisync.domain.payloads import printable
from pisync.domain.recipients import Recipient
from pisync.settings import WorkerSettings
from pisync.smtp_address import SmtpAddress
from worker.senders import NotSentError


class MailSender:
    """A `Sender` over SMTP; a connection for each message."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._server = SmtpAddress(settings.smtp_url) if settings.smtp_url else None
        self._from = settings.smtp_from

    async def send(self, recipient: Recipient, message: Message) -> None:
        """Hand a message to the mail server."""
        server = self._server
        if server is None:
            raise NotSentError("no mail server is set: PISYNC_SMTP_URL")
        try:
            await aiosmtplib.send(
                mail(message, sender=self._from, to=recipient.address),
                sender=self._from,
                recipients=[recipient.address],
                hostname=server.host,
                port=server.port,
                username=server.username,
                password=server.password,
                use_tls=server.tls,
                start_tls=server.starttls,
                local_hostname=socket.gethostname(),  # its full name would be asked of DNS, and waited for
                timeout=limits.MESSAGE_TIMEOUT_S,
            )
        except aiosmtplib.SMTPAuthenticationError as error:  # whose text may quote what was sent
            raise NotSentError(f"the mail server does not accept the password ({error.code})") from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise NotSentError(f"the mail server refuses the address: {_why(error.recipients[0])}") from None
        except aiosmtplib.SMTPResponseException as error:
            raise NotSentError(f"the mail server refuses: {_why(error)}") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise NotSentError(f"the mail server could not be reached ({type(error).__name__})") from None


def mail(message: Message, *, sender: str, to: str) -> EmailMessage:
    """The mail of a message."""
    found = EmailMessage()
    found["From"] = sender
    found["To"] = to
    found["Subject"] = printable(message.title)
    found["Date"] = format_datetime(message.created_at)
    found["Message-ID"] = f"<{message.message_id}@{sender.rpartition('@')[2]}>"
    found["Auto-Submitted"] = "auto-generated"  # so that no absence note answers it (RFC 3834)
    found.set_content(printable(message.text, keep="\n"))
    return found


def _why(error: aiosmtplib.SMTPResponseException) -> str:
    return f"{error.code} {printable(error.message)[: limits.ATTEMPT_WHY_CHARS_MAX]}"
