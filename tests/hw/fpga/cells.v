// One of each that synthesis maps to a cell of its own: memories of several shapes, a product, a sum, delays.
module cells (
    input wire clk,
    input wire [9:0] read, write,
    input wire [3:0] enable,
    input wire [71:0] data,
    output reg [71:0] wide, // 72 bits, byte enables
    output reg [35:0] half,
    output reg [8:0] narrow,
    output wire [15:0] tiny,
    output wire signed [29:0] product,
    output reg [47:0] sum,
    output reg [3:0] late
);
    reg [71:0] wide_rows [0:511];
    reg [35:0] half_rows [0:1023];
    reg [8:0] narrow_rows [0:1023];
    reg [15:0] tiny_rows [0:31];
    initial begin : start
        integer i;
        wide = 0; half = 0; narrow = 0; sum = 0; late = 0;
        for (i = 0; i < 8; i = i + 1) begin
            wide_rows[i] = 72'h123456789abcdef012 ^ i;
            half_rows[i] = 36'h987654321 ^ i;
            narrow_rows[i] = 9'h155 ^ i;
            tiny_rows[i] = 16'h1357 ^ i;
        end
    end

    always @(posedge clk) begin
        if (enable[0]) wide_rows[write[8:0]][35:0] <= data[35:0];
        if (enable[1]) wide_rows[write[8:0]][71:36] <= data[71:36];
        if (enable[2]) half_rows[write] <= data[35:0];
        if (enable[2]) narrow_rows[write] <= data[8:0];
        if (enable[3]) tiny_rows[write[4:0]] <= data[15:0];
        wide <= wide_rows[read[8:0]];
        if (enable[3]) half <= half_rows[read];
        narrow <= narrow_rows[read];
    end
    assign tiny = tiny_rows[read[4:0]];

    assign product = $signed(data[11:0]) * $signed(data[35:18]);

    reg [31:0] delays = 0;
    always @(posedge clk) begin
        sum <= sum + data[47:0];
        delays <= {delays[27:0], data[3:0]};
        late <= delays[31:28];
    end
endmodule

// The module beside its netlist, with the same random inputs.
module top (
    input wire clk, rst,
    output reg differs, // at any time so far
    output reg [6:0] alive // which outputs were ever not zero
);
    reg [127:0] x = 128'h0123456789abcdeffedcba9876543210;
    wire [127:0] y = x ^ (x << 13), z = y ^ (y >> 7);
    always @(posedge clk) x <= z ^ (z << 17);

    wire [219:0] source, netlist;
    cells a (.clk(clk), .read(x[9:0] & {4'hf, x[41:36]}), .write(x[19:10] & {4'hf, x[47:42]}), .enable(x[23:20]),
        .data(x[127:56]), .wide(source[71:0]), .half(source[107:72]), .narrow(source[116:108]),
        .tiny(source[132:117]), .product(source[162:133]), .sum(source[210:163]), .late(source[214:211]));
    cells_netlist b (.clk(clk), .read(x[9:0] & {4'hf, x[41:36]}), .write(x[19:10] & {4'hf, x[47:42]}),
        .enable(x[23:20]), .data(x[127:56]), .wide(netlist[71:0]), .half(netlist[107:72]),
        .narrow(netlist[116:108]), .tiny(netlist[132:117]), .product(netlist[162:133]), .sum(netlist[210:163]),
        .late(netlist[214:211]));
    initial begin
        differs = 0;
        alive = 0;
    end
    always @(posedge clk) begin
        if (source[214:0] != netlist[214:0]) differs <= 1;
        alive <= alive | {|netlist[214:211], |netlist[210:163], |netlist[162:133], |netlist[132:117],
            |netlist[116:108], |netlist[107:72], |netlist[71:0]};
    end
endmodule
