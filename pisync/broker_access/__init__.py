"""What the broker lets whom do, for Mosquitto's dynamic-security plugin (dynsec) and its listeners; no I/O.

dynsec decides alone: there is no `acl_file` beside it, because Mosquitto lets whomever dynsec does not know
subscribe to anything where there is one. What matches nothing is denied, in 2.0 as in 2.1.
"""

from pisync.broker_access.dynsec import Account, DeviceAccount, Password, document
from pisync.broker_access.listeners import Listeners, configuration
from pisync.broker_access.roles import (
    PROGRAM_ROLES,
    Acl,
    Program,
    Role,
    account_name,
    device_role,
    device_role_name,
    has_patterns,
    is_ours,
    shared_device_roles,
)

__all__ = [
    "PROGRAM_ROLES",
    "Account",
    "Acl",
    "DeviceAccount",
    "Listeners",
    "Password",
    "Program",
    "Role",
    "account_name",
    "configuration",
    "device_role",
    "device_role_name",
    "document",
    "has_patterns",
    "is_ours",
    "shared_device_roles",
]
