// What RAMB36E2 and RAMB18E2 have in common: 1,024 rows of WIDTH bits and a parity bit for each eight,
// two ports. A port reads or writes a part of a row, a row, or two rows; each of them in the old state
// while it writes. Reference: AMD UG573, UltraScale Architecture Memory Resources.
`default_nettype none

module skipstone_block_ram #(
    parameter integer WIDTH = 32,           // 32 or 16
    parameter integer READ_A = 0,           // bits with parity that port A reads; 0: nothing
    parameter integer READ_B = 0,
    parameter integer WRITE_A = 0,
    parameter integer WRITE_B = 0,
    parameter [1024 * WIDTH - 1:0] INIT = 0,
    parameter [128 * WIDTH - 1:0] INIT_PARITY = 0,
    parameter [WIDTH * 9 / 8 - 1:0] START_A = 0,    // outputs after configuration: parity, then data
    parameter [WIDTH * 9 / 8 - 1:0] START_B = 0,
    parameter [WIDTH * 9 / 8 - 1:0] RESET_A = 0,    // and after a reset
    parameter [WIDTH * 9 / 8 - 1:0] RESET_B = 0
) (
    input wire clk_a, clk_b, en_a, en_b, rst_a, rst_b,
    input wire [9 + $clog2(WIDTH):0] addr_a, addr_b,
    input wire [WIDTH / 8 - 1:0] we_a,
    input wire [WIDTH / 4 - 1:0] we_b,
    input wire [WIDTH - 1:0] di_a, di_b,
    input wire [WIDTH / 8 - 1:0] dip_a, dip_b,
    output reg [WIDTH - 1:0] do_a, do_b,
    output reg [WIDTH / 8 - 1:0] dop_a, dop_b
);
    localparam integer BYTES = WIDTH / 8, ROW = WIDTH * 9 / 8, LOW = $clog2(WIDTH);

    reg [WIDTH - 1:0] rows [0:1023];
    reg [BYTES - 1:0] parity [0:1023];
    integer row;
    initial begin
        for (row = 0; row < 1024; row = row + 1) begin
            rows[row] = INIT[row * WIDTH +: WIDTH];
            parity[row] = INIT_PARITY[row * BYTES +: BYTES];
        end
        {dop_a, do_a} = START_A;
        {dop_b, do_b} = START_B;
        if ((READ_A != 0 && WRITE_A != 0) || (READ_B != 0 && WRITE_B != 0) || READ_A > 2 * ROW
            || READ_B > ROW || WRITE_A > ROW || WRITE_B > 2 * ROW || (READ_A > ROW && READ_B != 0)
            || (WRITE_B > ROW && WRITE_A != 0))
            $error("block RAM: these widths are not modelled");
    end

    // Data bits of an access, and the lowest of them within its row.
    function integer bits(input integer width);
        bits = width >= 9 ? width / 9 * 8 : width;
    endfunction
    function integer first(input integer width, input [LOW - 1:0] address);
        first = width >= ROW ? 0 : address - address % bits(width);
    endfunction
    function [WIDTH - 1:0] ones(input integer width);
        ones = width >= ROW ? ~{WIDTH{1'b0}} : ({{(WIDTH - 1){1'b0}}, 1'b1} << bits(width)) - 1'b1;
    endfunction
    // Bits that an access writes, by its byte enables.
    function [WIDTH - 1:0] mask(input integer width, input [LOW - 1:0] address, input [BYTES - 1:0] we);
        integer i;
        begin
            for (i = 0; i < WIDTH; i = i + 1) mask[i] = width > 9 ? we[i / 8] : we[0];
            mask = (mask & ones(width)) << first(width, address);
        end
    endfunction
    function [BYTES - 1:0] parity_mask(
        input integer width, input [LOW - 1:0] address, input [BYTES - 1:0] we
    );
        integer i;
        for (i = 0; i < BYTES; i = i + 1)
            parity_mask[i] = width >= 9 && i >= first(width, address) / 8
                && i < (first(width, address) + (width >= ROW ? WIDTH : bits(width))) / 8
                && we[width > 9 ? i - first(width, address) / 8 : 0];
    endfunction

    wire [LOW - 1:0] low_a = addr_a[LOW - 1:0], low_b = addr_b[LOW - 1:0];
    wire [9:0] row_a = addr_a[LOW +: 10], row_b = addr_b[LOW +: 10];

    generate
        if (WRITE_A != 0) begin : write_a
            wire [WIDTH - 1:0] chosen = mask(WRITE_A, low_a, we_a);
            wire [BYTES - 1:0] chosen_parity = parity_mask(WRITE_A, low_a, we_a);
            always @(posedge clk_a)
                if (en_a) begin
                    rows[row_a] <= (rows[row_a] & ~chosen) | ((di_a << first(WRITE_A, low_a)) & chosen);
                    parity[row_a] <= (parity[row_a] & ~chosen_parity)
                        | ((dip_a << first(WRITE_A, low_a) / 8) & chosen_parity);
                end
        end
        if (WRITE_B != 0 && WRITE_B <= ROW) begin : write_b
            wire [WIDTH - 1:0] chosen = mask(WRITE_B, low_b, we_b[BYTES - 1:0]);
            wire [BYTES - 1:0] chosen_parity = parity_mask(WRITE_B, low_b, we_b[BYTES - 1:0]);
            always @(posedge clk_b)
                if (en_b) begin
                    rows[row_b] <= (rows[row_b] & ~chosen) | ((di_b << first(WRITE_B, low_b)) & chosen);
                    parity[row_b] <= (parity[row_b] & ~chosen_parity)
                        | ((dip_b << first(WRITE_B, low_b) / 8) & chosen_parity);
                end
        end
        if (WRITE_B > ROW) begin : write_two
            wire [WIDTH - 1:0] lower = mask(ROW, 0, we_b[BYTES - 1:0]);
            wire [WIDTH - 1:0] upper = mask(ROW, 0, we_b[BYTES +: BYTES]);
            wire [9:0] even = {row_b[9:1], 1'b0}, odd = {row_b[9:1], 1'b1};
            always @(posedge clk_b)
                if (en_b) begin
                    rows[even] <= (rows[even] & ~lower) | (di_a & lower);
                    rows[odd] <= (rows[odd] & ~upper) | (di_b & upper);
                    parity[even] <= (parity[even] & ~we_b[BYTES - 1:0]) | (dip_a & we_b[BYTES - 1:0]);
                    parity[odd] <= (parity[odd] & ~we_b[BYTES +: BYTES]) | (dip_b & we_b[BYTES +: BYTES]);
                end
        end
        if (READ_A != 0 && READ_A <= ROW) begin : read_a
            always @(posedge clk_a)
                if (en_a) begin
                    if (rst_a) {dop_a, do_a} <= RESET_A;
                    else begin
                        do_a <= (rows[row_a] >> first(READ_A, low_a)) & ones(READ_A);
                        dop_a <= parity[row_a] >> first(READ_A, low_a) / 8;
                    end
                end
        end
        if (READ_B != 0) begin : read_b
            always @(posedge clk_b)
                if (en_b) begin
                    if (rst_b) {dop_b, do_b} <= RESET_B;
                    else begin
                        do_b <= (rows[row_b] >> first(READ_B, low_b)) & ones(READ_B);
                        dop_b <= parity[row_b] >> first(READ_B, low_b) / 8;
                    end
                end
        end
        if (READ_A > ROW) begin : read_two
            always @(posedge clk_a)
                if (en_a) begin
                    if (rst_a) begin
                        {dop_a, do_a} <= RESET_A;
                        {dop_b, do_b} <= RESET_B;
                    end else begin
                        do_a <= rows[{row_a[9:1], 1'b0}];
                        do_b <= rows[{row_a[9:1], 1'b1}];
                        dop_a <= parity[{row_a[9:1], 1'b0}];
                        dop_b <= parity[{row_a[9:1], 1'b1}];
                    end
                end
        end
    endgenerate
endmodule

`default_nettype wire
