"""`/login` and `/logout`: a session begins with a key, a password, or an identity provider's word, and ends.

A refusal never says whether there is such a user. A new session has a new secret, whatever the browser had
before.
"""

from http import HTTPStatus
from math import ceil
from typing import Annotated, Any, Final, NamedTuple

from fastapi import Query, Request, Response
from msgspec.structs import replace
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from api.auth import cookies, form_tokens, passwords
from api.auth.addresses import address_of, is_of_this_machine, limited_as
from api.auth.oidc import CALLBACK, Identity, SignInError
from api.auth.refusals import Refusal
from api.auth.signing_in import SigningIn
from api.directory.changes import new_action
from api.pages import messages, rendering
from api.pages.routing import AnyQueryPageRoute, page_router, read_form
from api.pages.signed_in import own_path
from api.state import State, state_of
from pisync import clock, limits, logs, sampled
from pisync.domain import sessions, users
from pisync.domain.access import Principal, PrincipalKind
from pisync.domain.actions import About, Progress, What
from pisync.domain.payloads import printable
from pisync.domain.sessions import LoginStart, Session
from pisync.domain.users import User
from pisync.errors import MongodbUnavailable

router = page_router()
log = logs.get("api.login")
_refusals = sampled.get("api.login")

_PATH: Final = "/login"
_WRONG_PASSWORD: Final = "The name or the password is wrong."  # noqa: S105
_WRONG_KEY: Final = "The key is wrong, or no longer valid."
_Back = Annotated[str, Query(alias="back")]


class _Proven(NamedTuple):
    """Whose password was right, as the user was then, and the password."""

    user: User
    password: str


@router.get(_PATH)
async def login_page(*, request: Request, back: _Back = "") -> Response:
    """What signs somebody in; who is signed in, or need not be, goes on."""
    signing_in = state_of(request).signing_in
    if await signing_in.access.is_open() or await signing_in.sessions.read(request) is not None:
        return _on(request, back)
    return await _form(request, back)


@router.post(_PATH)
async def login(request: Request) -> Response:
    """Sign in with a key, or a name and a password."""
    form_tokens.bind(request, cookies.read(request, cookies.LOGIN) or sessions.new_secret())
    try:
        given = await read_form(request, "name", "password", "key", "back")
    except HTTPException as error:
        if error.status_code != HTTPStatus.FORBIDDEN:
            raise
        # It is shown anew, and nothing was tried.
        return await _form(request, "", fault=_why_not_this_form(request), status=403)
    signing_in, back = state_of(request).signing_in, given.get("back", "")
    if await signing_in.access.is_open():
        return _on(request, back)
    key, name = given.get("key", "").strip(), given.get("name", "")
    found = (
        await _by_key(request, key) if key else await _by_password(request, name, given.get("password", ""))
    )
    if isinstance(found, _Proven):
        return await _begin_of_user(request, found, back)
    if isinstance(found, Principal):
        return await _begin(request, found, back, key=key)
    fault, status, wait_s = found
    return await _form(request, back, fault=fault, status=status, name=name, wait_s=wait_s)


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End this browser's session."""
    state = state_of(request)
    principal = await state.signing_in.sessions.read(request)
    request.state.principal = principal
    await read_form(request)
    response = messages.done(request, _PATH, "You are signed out.")
    if principal is not None:
        session: Session = request.state.session
        await state.signing_in.sessions.end(session.session_id)
        await _told(state, What.LOGOUT, session)
    cookies.clear(request, response, cookies.SESSION)
    return response


@router.get("/login/oidc")
async def to_provider(*, request: Request, back: _Back = "") -> Response:
    """Go to the identity provider; the browser holds a secret by which it is known when it comes back."""
    state = state_of(request)
    provider = state.signing_in.provider
    if provider is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "No identity provider is configured.")
    _hold_to_pace(request)
    try:
        start = await provider.begin()
    except SignInError as error:
        return await _refused(request, error, back)
    secret = sessions.new_secret()
    await state.sessions.begin_login(
        LoginStart(
            start_id=sessions.digest(start.state),
            browser_id=sessions.digest(secret),
            nonce=start.nonce,
            verifier=start.verifier,
            back=own_path(back),
            at=clock.now(),
        )
    )
    response = RedirectResponse(start.url, HTTPStatus.SEE_OTHER)
    cookies.write(request, response, cookies.LOGIN, secret, limits.LOGIN_START_S)
    return response


async def from_provider(request: Request) -> Response:
    """Come back from the identity provider, which adds what it likes to the address."""
    state = state_of(request)
    provider, given = state.signing_in.provider, request.query_params
    if provider is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "No identity provider is configured.")
    _hold_to_pace(request)
    try:
        begun = await _taken(request, given.get("state", ""))
        if "error" in given or "code" not in given:
            why = f"it answers {printable(given.get('error', 'without a code'))}"
            raise SignInError("The identity provider did not sign you in.", why)
        identity = await provider.identity(given["code"], begun.nonce, begun.verifier, given.get("iss"))
    except SignInError as error:
        return await _refused(request, error, "")
    return await _begin(request, _principal(identity), begun.back, subject=identity.subject)


# The answer of a provider has members of its own, such as `session_state`.
router.add_api_route(CALLBACK, from_provider, route_class_override=AnyQueryPageRoute)


def _why_not_this_form(request: Request) -> str:
    """Why a form has not the token that goes with its cookie, as far as can be told, and what helps."""
    if cookies.read(request, cookies.LOGIN):
        return "This form was of another sign-in, begun since or before. Please send this one."
    if cookies.is_https(request) and request.headers.get("origin", "").lower().startswith("http:"):
        return (
            "This page was opened by http://, but PiSync is told that it came by HTTPS, and a browser keeps"
            " such cookies by https:// alone. Open it by https://, or have the proxy send X-Forwarded-Proto"
            " as it is."
        )
    return (
        f"The browser sent no cookie with the form: it lay open for more than {limits.LOGIN_FORM_S // 60}"
        " minutes, or the browser does not keep cookies of this address. Please try again;"
        f" {_if_it_comes_back(request)}"
    )


def _if_it_comes_back(request: Request) -> str:
    by_https = ", and open it by https://, not http://" if cookies.is_https(request) else ""
    return f"if this comes back, allow cookies here{by_https}."


def _hold_to_pace(request: Request) -> None:
    """Nobody is known yet: what a login asks of MongoDB and the provider is bounded for each address."""
    if wait_s := state_of(request).access.wait_of_stranger(address_of(request)):
        headers = {"Retry-After": str(ceil(wait_s))}
        raise HTTPException(
            HTTPStatus.TOO_MANY_REQUESTS, "Too many sign-ins come from this address.", headers
        )


async def _taken(request: Request, given: str) -> LoginStart:
    """The login that began in this browser and comes back now, once."""
    begun = await state_of(request).sessions.take_login(sessions.digest(given)) if given else None
    if begun is None or (clock.now() - begun.at).total_seconds() > limits.LOGIN_START_S:
        raise SignInError(
            "This sign-in took too long, or came back twice. Try again.", "its state is not known"
        )
    secret = cookies.read(request, cookies.LOGIN)
    if not secret:
        raise SignInError(
            "This sign-in began in another browser, or this one does not keep cookies of this address."
            f" Try again; {_if_it_comes_back(request)}",
            "it comes without its cookie",
        )
    if sessions.digest(secret) != begun.browser_id:
        raise SignInError("This sign-in began in another browser. Try again.", "its cookie is another one's")
    return begun


async def _by_key(request: Request, key: str) -> Principal | tuple[str, int, int]:
    signing_in, address = state_of(request).signing_in, address_of(request)
    found = await signing_in.access.principal_of(key.encode())
    if isinstance(found, Principal):
        return found
    wait_s = signing_in.access.refusals.add(address, *found)
    status = HTTPStatus.TOO_MANY_REQUESTS if wait_s else HTTPStatus.FORBIDDEN
    return _WRONG_KEY, status, ceil(wait_s)


async def _by_password(request: Request, given: str, password: str) -> _Proven | tuple[str, int, int]:
    state, address = state_of(request), address_of(request)
    signing_in = state.signing_in
    try:
        name = users.read_name(given)
    except ValueError:
        name = ""
    address = limited_as(address)
    wait_s = signing_in.failures.wait_s(name, address)
    if wait_s:
        return "Too many wrong passwords. Wait a few minutes.", HTTPStatus.TOO_MANY_REQUESTS, wait_s
    # Counted before it is known, so that many at once are no more than one after another.
    signing_in.failures.failed(name, address)
    try:
        user = await state.users.get(name) if name else None
        is_right = await signing_in.passwords.is_right(password, None if user is None else user.hashed)
    except (HTTPException, MongodbUnavailable):
        signing_in.failures.take_back(name, address)
        raise
    if not is_right or user is None or user.disabled:
        # Counted with wrong keys, and told with them: of an address once in a while.
        signing_in.access.refusals.add(address, Refusal.WRONG)
        return _WRONG_PASSWORD, HTTPStatus.FORBIDDEN, 0
    signing_in.failures.succeeded(name, address)
    if passwords.is_outdated(user.hashed):
        anew = await signing_in.passwords.hash(password)
        await state.users.write(replace(user, hashed=anew), user.version)
    return _Proven(user, password)


async def _begin_of_user(request: Request, proven: _Proven, back: str) -> Response:
    """Lead on whoever has the password, unless it was changed while it was checked.

    A change ends the sessions that there are; the one that begins here may not be among them.
    """
    state, name = state_of(request), proven.user.name
    principal = Principal(name=name, kind=PrincipalKind.USER, roles=frozenset({proven.user.role}))
    response = await _begin(request, principal, back)
    user = await state.users.get(name)
    hashed = None if user is None else user.hashed
    if hashed == proven.user.hashed or await state.signing_in.passwords.is_right(proven.password, hashed):
        return response
    await state.signing_in.sessions.end(request.state.begun)
    return await _form(request, back, fault=_WRONG_PASSWORD, status=HTTPStatus.FORBIDDEN, name=name)


async def _begin(
    request: Request, principal: Principal, back: str, *, key: str | None = None, **told: Any
) -> Response:
    """Lead on to where somebody wanted to go, signed in."""
    state, address = state_of(request), address_of(request)
    response = _on(request, back)
    session = await state.signing_in.sessions.begin(request, response, principal, address, key)
    request.state.begun = session.session_id
    cookies.clear(request, response, cookies.LOGIN)
    await _told(state, What.LOGIN, session, **told)
    if principal.kind is PrincipalKind.USER:
        await state.users.logged_in(principal.name, session.created_at)
    return response


async def _told(state: State, what: What, session: Session, **told: Any) -> None:
    """Write down who came or went; the session is there, or gone, already."""
    action = new_action(
        session.name,
        what,
        About.SESSIONS,
        session.session_id,
        details={"by": session.kind.value, "address": session.address, **told},
    )
    await state.actions.begin(action)
    await state.actions.settle(action.action_id, Progress.DONE)
    log.info(what.value, name=session.name, by=session.kind.value, address=session.address)


async def _refused(request: Request, error: SignInError, back: str) -> Response:
    _refusals.warning("not signed in by the identity provider", why=error.why)
    if error.status == HTTPStatus.FORBIDDEN:
        state_of(request).access.refusals.add(address_of(request), Refusal.WRONG)
    return await _form(request, back, fault=str(error), status=error.status)


async def _form(
    request: Request, back: str, *, fault: str = "", status: int = 200, name: str = "", wait_s: int = 0
) -> Response:
    """The page that asks, which tells nothing of the fleet; its forms are of this browser."""
    state = state_of(request)
    signing_in: SigningIn = state.signing_in
    secret = cookies.read(request, cookies.LOGIN)
    is_new = sessions.id_of(secret) is None
    form_tokens.bind(request, secret := sessions.new_secret() if is_new else secret)
    provider = request.app.state.settings.oidc_name if signing_in.provider is not None else None
    response = rendering.bare_page(
        request,
        "login.html",
        title="Sign in",
        status=status,
        fault=fault,
        back=own_path(back),
        name=name[: limits.USER_NAME_CHARS_MAX],
        has_users=bool(await signing_in.sessions.users()),
        provider=provider,
        is_plain=not cookies.is_https(request) and not is_of_this_machine(address_of(request)),
    )
    if wait_s:
        response.headers["Retry-After"] = str(wait_s)
    cookies.write(request, response, cookies.LOGIN, secret, limits.LOGIN_FORM_S)
    return response


def _principal(identity: Identity) -> Principal:
    return Principal(
        name=identity.name, kind=PrincipalKind.IDENTITY_PROVIDER, roles=frozenset(identity.roles)
    )


def _on(request: Request, back: str) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}{own_path(back)}", HTTPStatus.SEE_OTHER)
