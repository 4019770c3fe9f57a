//! A guard as a toolchain builds it for wasm32-wasi: a reactor with `_initialize`, the standard library's own allocator,
//! JSON, clocks, random numbers and streams. Each job says in its description what it was given of the world:
//! `args=0 env=0 open=8 stdin=0 now=1 random=1`, where `open` is the errno of opening a file and the last two are 1 for yes.
//! The tool "world" says the time and random bytes instead: `now=... random=...`.
//! The tool "quit" ends the process with status 7, "panic" runs into a safety check.
const std = @import("std");
const wasi = std.os.wasi;
const allocator = std.heap.wasm_allocator;

var began: i128 = 0;

/// With `-mexec-model=reactor` this is `_initialize`.
pub fn main() void {
    began = std.time.nanoTimestamp();
    std.debug.print("initialized\n", .{});
}

export fn alloc(size: u32) ?[*]u8 {
    const bytes = allocator.alloc(u8, size) catch return null;
    return bytes.ptr;
}

export fn dealloc(ptr: [*]u8, size: u32) void {
    allocator.free(ptr[0..size]);
}

export fn label_agent(_: [*]const u8, _: u32, out: [*]u8, cap: u32) i32 {
    return write(out[0..cap], .{ .agent = .{ .secrecy = .{}, .integrity = .{} }, .difc_mode = "filter" });
}

export fn label_resource(in: [*]const u8, len: u32, out: [*]u8, cap: u32) i32 {
    const Input = struct { tool_name: []const u8 };
    const input = std.json.parseFromSlice(Input, allocator, in[0..len], .{ .ignore_unknown_fields = true }) catch return -1;
    defer input.deinit();
    if (std.mem.eql(u8, input.value.tool_name, "quit")) std.process.exit(7);
    if (std.mem.eql(u8, input.value.tool_name, "panic")) {
        var index: usize = len;
        _ = &index;
        out[0] = in[0..len][index];
    }
    std.io.getStdOut().writer().print("asked for {s}\n", .{input.value.tool_name}) catch return -2000;
    const is_world = std.mem.eql(u8, input.value.tool_name, "world");
    const description = (if (is_world) tell() else describe()) catch return -2001;
    defer allocator.free(description);
    return write(out[0..cap], .{
        .resource = .{ .description = description, .secrecy = .{}, .integrity = .{} },
        .operation = "read",
    });
}

export fn label_response(_: [*]const u8, _: u32, _: [*]u8, _: u32) i32 {
    return 0;
}

fn describe() ![]u8 {
    // Not std.process.argsAlloc: its end fails in this version where there is not even a program's name.
    var args: usize = undefined;
    var args_bytes: usize = undefined;
    if (wasi.args_sizes_get(&args, &args_bytes) != .SUCCESS or args_bytes != 0) return error.Unexpected;
    var env = try std.process.getEnvMap(allocator);
    defer env.deinit();
    var fd: wasi.fd_t = 0;
    const path = "/etc/passwd";
    const opened = wasi.path_open(3, .{}, path, path.len, .{}, .{ .FD_READ = true }, .{}, .{}, &fd);
    var byte: [1]u8 = undefined;
    const read = try std.io.getStdIn().read(&byte);
    const random = std.crypto.random;
    const drawn = random.int(u64) != random.int(u64);
    return std.fmt.allocPrint(allocator, "args={} env={} open={} stdin={} now={} random={}", .{
        args,
        env.count(),
        @intFromEnum(opened),
        read,
        @intFromBool(std.time.nanoTimestamp() > began and began > 1_600_000_000 * std.time.ns_per_s),
        @intFromBool(drawn),
    });
}

fn tell() ![]u8 {
    // Not std.crypto.random, which asks once and then makes its own numbers.
    var bytes: [8]u8 = undefined;
    try std.posix.getrandom(&bytes);
    const random = std.mem.readInt(u64, &bytes, .little);
    return std.fmt.allocPrint(allocator, "now={} random={}", .{ std.time.nanoTimestamp(), random });
}

fn write(out: []u8, value: anytype) i32 {
    var stream = std.io.fixedBufferStream(out);
    std.json.stringify(value, .{}, stream.writer()) catch return -2;
    return @intCast(stream.pos);
}
