"""One life of a member: its service beside its mesh, until it has handed over what it has."""

import asyncio

from common.service import Process, Serve


async def live(process: Process, serve: Serve) -> None:
    """Run a service until it ends, or has been told to stop and had its time for it."""

    async def serve_to_its_end() -> None:
        await serve(process)
        process.drained.set()

    async with asyncio.TaskGroup() as mesh:
        running = mesh.create_task(process.mesh.run())
        # The service ends first: its last words still find the mesh at work.
        async with asyncio.TaskGroup() as service:
            serving = service.create_task(serve_to_its_end())
            await _end(process)
            serving.cancel()
        running.cancel()


async def _end(process: Process) -> None:
    async with asyncio.TaskGroup() as group:
        told = group.create_task(_told_and_waited(process))
        await process.drained.wait()
        told.cancel()


async def _told_and_waited(process: Process) -> None:
    await process.stopping.wait()
    if process.is_member:
        await process.clock.sleep(process.config.mesh.drain)
        process.log.warning("not drained in time", seconds=process.config.mesh.drain)
    process.drained.set()
