"""A configuration file, read whole and checked: `load` is what the rest of the gateway knows of it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from deadpeer.crash.options import CrashOptions
from deadpeer.ike.connection import Connection, EndpointConfig

from .cluster_config import ClusterOptions, resolve_cluster
from .errors import ConfigError, Problem, Problems
from .explain import explain
from .files import read_public
from .notation import Host, Interface
from .resolve import check_gateway, resolve_connection, resolve_interfaces, resolve_listen
from .schema import Configuration, GatewaySection, LogLevel, PlaneKind, QcdSection
from .standby_config import StandbyOptions, resolve_standby

__all__ = ["ConfigError", "GatewayConfig", "GatewayOptions", "load"]


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What concerns the daemon and not the protocol. `listen` empty: every address of the host."""

    state_dir: Path
    control: Path
    listen: tuple[Host, ...]
    port: int
    port_nat_t: int
    plane: PlaneKind
    tun: str
    tun_mtu: int
    tun_addresses: tuple[Interface, ...]
    routes: bool
    route_table: int
    unix_local: Path | None
    unix_peer: Path | None
    faults: bool
    log_level: LogLevel
    receive_buffer: int
    hold_packets: int


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A whole, valid configuration. Paths are absolute, or relative to the working directory as `file` is."""

    file: Path
    gateway: GatewayOptions
    endpoint: EndpointConfig
    crash: CrashOptions
    connections: tuple[Connection, ...]
    cluster: ClusterOptions | None = None
    standby: StandbyOptions | None = None


def load(file: Path) -> GatewayConfig:
    """Read and check a configuration file; the paths in it are relative to it.

    Raises ConfigError: one line with the file, the key and the remedy.
    """
    shape = _shape(file)
    problems = Problems(file)
    directory = file.parent
    check_gateway(shape.gateway, directory, problems)
    listen = resolve_listen(shape.gateway, problems)
    standby = resolve_standby(shape, listen, directory, problems)
    if standby is not None:
        listen = (standby.address,)
    interfaces = resolve_interfaces(shape.gateway, problems)
    connections = [
        resolve_connection(name, section, directory, listen, problems)
        for name, section in shape.connections.items()
    ]
    section = shape.cluster
    cluster = None if section is None else resolve_cluster(section, directory, problems)
    if cluster is not None or standby is not None:
        _check_shared(shape, problems)
    problems.raise_first()
    return GatewayConfig(
        file=file,
        gateway=_options(shape.gateway, directory, listen, interfaces),
        endpoint=_endpoint(shape.gateway),
        crash=_crash(shape.qcd),
        connections=tuple(connection for connection in connections if connection is not None),
        cluster=cluster,
        standby=standby,
    )


def _check_shared(shape: Configuration, problems: Problems) -> None:
    """What a gateway that shares its identity with others must not say."""

    for name, section in shape.connections.items():
        if section.initial_contact:
            problems.check(f"connections.{name}.initial_contact", _refuse_contact)


def _refuse_contact() -> None:
    raise Problem(
        "has the peer drop its SAs with the other members, who have the same identity; leave it out"
    )


def _shape(file: Path) -> Configuration:
    try:
        document = tomllib.loads(read_public(file).decode())
    except Problem as problem:
        raise ConfigError(file, "", str(problem).removeprefix(f"{file} ")) from None
    except UnicodeDecodeError as error:
        raise ConfigError(file, "", f"is not UTF-8 at octet {error.start}; save it as UTF-8") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # not only TOMLDecodeError: numbers of 5000 digits, and more
        raise ConfigError(file, "", f"is not TOML: {error}; correct it there") from None
    try:
        return Configuration.model_validate(document)
    except ValidationError as error:
        key, text, others = explain(error)
        raise ConfigError(file, key, text, others) from None


def _options(
    section: GatewaySection, directory: Path, listen: tuple[Host, ...], interfaces: tuple[Interface, ...]
) -> GatewayOptions:
    return GatewayOptions(
        state_dir=directory / section.state_dir,
        control=directory / section.control,
        listen=listen,
        port=section.port,
        port_nat_t=section.port_nat_t,
        plane=section.plane,
        tun=section.tun,
        tun_mtu=section.tun_mtu,
        tun_addresses=interfaces,
        routes=section.routes,
        route_table=section.route_table,
        unix_local=None if section.unix_local is None else directory / section.unix_local,
        unix_peer=None if section.unix_peer is None else directory / section.unix_peer,
        faults=section.faults,
        log_level=section.log_level,
        receive_buffer=section.receive_buffer,
        hold_packets=section.hold_packets,
    )


def _endpoint(section: GatewaySection) -> EndpointConfig:
    return EndpointConfig(
        port=section.port,
        port_nat_t=section.port_nat_t,
        cookie_threshold=section.cookie_threshold,
        half_open_limit=section.half_open_limit,
        half_open_per_source=section.half_open_per_source,
        half_open_per_proven_source=section.half_open_per_proven_source,
        half_open_timeout_s=section.half_open_timeout,
        max_ike_sas=section.max_ike_sas,
        nat_keepalive_s=section.nat_keepalive,
        child_linger_s=section.child_linger,
        init_timeout_s=section.init_timeout,
        retry_cap_s=section.retry_cap,
    )


def _crash(section: QcdSection) -> CrashOptions:
    limits = section.model_dump()
    return CrashOptions(
        boot_window_s=limits.pop("boot_window"),
        ticket_rotation_s=limits.pop("ticket_rotation"),
        spi_map_keep_s=limits.pop("spi_map_keep"),
        announce_interval_s=limits.pop("announce_interval"),
        **limits,
    )
