//! What the guard imports: the log and the backend.

const std = @import("std");
const Arena = @import("heap.zig").Arena;

const imports = struct {
    extern "env" fn host_log(level: u32, ptr: [*]const u8, len: u32) void;
    extern "env" fn call_backend(
        tool_ptr: [*]const u8,
        tool_len: u32,
        args_ptr: [*]const u8,
        args_len: u32,
        result_ptr: [*]u8,
        result_cap: u32,
    ) i32;
};

const Level = enum(u32) { debug, info, warning, err };

var line: [1024]u8 = undefined;

fn write(level: Level, comptime format: []const u8, args: anytype) void {
    var stream = std.io.fixedBufferStream(&line);
    // A line that is too long is cut: what a log says about an odd input need not be whole.
    std.fmt.format(stream.writer(), format, args) catch {};
    const text = clip(stream.getWritten(), line.len - 4);
    imports.host_log(@intFromEnum(level), text.ptr, @intCast(text.len));
}

pub fn debug(comptime format: []const u8, args: anytype) void {
    write(.debug, format, args);
}

pub fn info(comptime format: []const u8, args: anytype) void {
    write(.info, format, args);
}

pub fn warning(comptime format: []const u8, args: anytype) void {
    write(.warning, format, args);
}

pub fn failure(comptime format: []const u8, args: anytype) void {
    write(.err, format, args);
}

/// At most `max` bytes of `text`, cut between two characters.
pub fn clip(text: []const u8, max: usize) []const u8 {
    if (text.len <= max) return text;
    var end = max;
    while (end > 0 and text[end] & 0xc0 == 0x80) end -= 1;
    return text[0..end];
}

/// Text of the input as a log line shows it.
pub fn shown(text: ?[]const u8) []const u8 {
    return clip(text orelse "-", 80);
}

const first_answer = 16 * 1024;
const largest_answer = 1024 * 1024;

/// Asks the backend; null for any error. The answer lives as long as the arena's content does.
pub fn ask(arena: *Arena, tool: []const u8, args: []const u8) ?[]const u8 {
    var cap: usize = first_answer;
    for (0..2) |_| {
        const buffer = arena.bytes(cap, 4) catch return null;
        const n = imports.call_backend(
            tool.ptr,
            @intCast(tool.len),
            args.ptr,
            @intCast(args.len),
            buffer.ptr,
            @intCast(cap),
        );
        debug("backend: {s}({s}) -> {d}", .{ tool, shown(args), n });
        if (n >= 0) return if (n <= cap) buffer[0..@intCast(n)] else null;
        if (n != -2) return null;
        const wanted = std.mem.readInt(u32, buffer[0..4], .little);
        if (wanted <= cap or wanted > largest_answer) return null;
        cap = wanted;
    }
    return null;
}
